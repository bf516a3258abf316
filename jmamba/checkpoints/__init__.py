"""Checkpoints: PyTorch layouts and Orbax in, Orbax and transformers' layout out."""

from jmamba.checkpoints.architectures import loader_of as loader_of
from jmamba.checkpoints.conversion import Conversion as Conversion
from jmamba.checkpoints.conversion import convert as convert
from jmamba.files.errors import CheckpointError as CheckpointError
from jmamba.files.orbax_files import load_orbax as load_orbax
from jmamba.files.orbax_files import save_orbax as save_orbax
from jmamba.files.saving import save as save
from jmamba.files.tokenizer import ByteTokenizer as ByteTokenizer
from jmamba.files.tokenizer import Tokenizer as Tokenizer
from jmamba.files.tokenizer import load_tokenizer as load_tokenizer
from jmamba.models.mamba.loading import load as load
from jmamba.models.vim.loading import load_vim as load_vim
