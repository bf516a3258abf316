"""The theory of token dynamics in pictures."""
