"""What happened inside of a model."""
