"""The models that come with the package: a byte-level Mamba, a small Vision Mamba."""

from jmamba.embedded.images import EmbeddedVim as EmbeddedVim
from jmamba.embedded.images import load_embedded_vim as load_embedded_vim
from jmamba.embedded.text import load_embedded as load_embedded
