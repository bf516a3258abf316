"""What a language model makes of a text."""
