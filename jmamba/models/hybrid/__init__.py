"""What language models of several kinds of layers have in common."""
