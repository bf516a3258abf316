"""The version, which the package and its wheel have."""

__version__ = "0.1.0"
