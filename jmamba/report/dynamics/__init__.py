"""How the tokens of a text move."""
