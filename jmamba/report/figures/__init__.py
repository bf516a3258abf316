"""Figures that several reports draw."""
