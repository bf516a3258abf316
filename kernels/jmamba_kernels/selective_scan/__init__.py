"""Implementations of the selective scan, one file each, under one contract."""
