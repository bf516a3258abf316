"""The dynamics of trained models."""
