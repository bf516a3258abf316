"""The models that come with the package: a byte-level Mamba, a small Vision Mamba."""

from jmamba.embedded.loading import EmbeddedVim as EmbeddedVim
from jmamba.embedded.loading import load_embedded as load_embedded
from jmamba.embedded.loading import load_embedded_vim as load_embedded_vim
