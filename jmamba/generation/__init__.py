"""New tokens from a language model."""
