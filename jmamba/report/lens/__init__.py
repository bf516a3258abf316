"""What each layer of a model would say."""
