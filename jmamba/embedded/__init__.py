"""The model that comes with the package: a small byte-level Mamba."""

from jmamba.embedded.loading import load_embedded as load_embedded
