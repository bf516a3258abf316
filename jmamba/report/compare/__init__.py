"""Two explanations of texts beside each other."""
