"""Training: the loop, its checkpoints, and the stage that runs it on Ray Train."""
