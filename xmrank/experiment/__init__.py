"""All stages of an experiment, one after another."""
