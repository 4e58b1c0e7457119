"""The best rankers in MLflow's model registry."""
