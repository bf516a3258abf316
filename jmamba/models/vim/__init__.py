"""Vision Mamba, a classifier of images."""

from jmamba.models.vim.architecture import VIM as VIM
