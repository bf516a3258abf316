"""Training: data, optimizer, loop and measurement."""
