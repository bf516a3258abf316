"""Explanations of a prediction: relevance of every token."""
