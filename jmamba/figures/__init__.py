"""Drawing surfaces, fonts, and tokens as text that can be read."""
