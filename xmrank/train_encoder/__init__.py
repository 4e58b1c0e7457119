"""Training of the bundled encoder."""
