"""Implementations of Mamba-2's recurrence, one file each, under one contract."""
