"""Checkpoints: PyTorch layouts and Orbax in, Orbax and transformers' layout out."""

from jmamba.checkpoints.architectures import loader_of as loader_of
from jmamba.checkpoints.conversion import Conversion as Conversion
from jmamba.checkpoints.conversion import convert as convert
from jmamba.checkpoints.errors import CheckpointError as CheckpointError
from jmamba.checkpoints.loading import load as load
from jmamba.checkpoints.orbax_files import load_orbax as load_orbax
from jmamba.checkpoints.orbax_files import save_orbax as save_orbax
from jmamba.checkpoints.saving import save as save
from jmamba.checkpoints.tokenizer import ByteTokenizer as ByteTokenizer
from jmamba.checkpoints.tokenizer import Tokenizer as Tokenizer
from jmamba.checkpoints.tokenizer import load_tokenizer as load_tokenizer
from jmamba.checkpoints.vision import load_vim as load_vim
