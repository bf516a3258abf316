"""Vision Mamba, a classifier of images."""

from jmamba.models.vim.architecture import VIM as VIM
from jmamba.models.vim.images import normalise as normalise
from jmamba.models.vim.images import preprocess as preprocess
