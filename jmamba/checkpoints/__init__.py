"""Checkpoints: PyTorch layouts and Orbax in, Orbax and transformers' layout out."""

from jmamba.checkpoints.conversion import Conversion as Conversion
from jmamba.checkpoints.conversion import convert as convert
from jmamba.checkpoints.verification import Verification as Verification
from jmamba.files.errors import CheckpointError as CheckpointError
from jmamba.files.tokenizer import ByteTokenizer as ByteTokenizer
from jmamba.files.tokenizer import Tokenizer as Tokenizer
from jmamba.models.loading import load_orbax as load_orbax
from jmamba.models.saving import save_orbax as save_orbax
from jmamba.models.tokenizers import load_tokenizer as load_tokenizer
