"""The system of token dynamics, and what is true of it."""
