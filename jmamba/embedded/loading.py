"""Loading the models that come with the package: of bytes, and of pictures.

README.md beside this file is the card of the one, vim/README.md that of the other.
"""

from pathlib import Path
from typing import Any, NamedTuple

from jmamba.files.tokenizer import Tokenizer
from jmamba.models.mamba.model import MambaLM
from jmamba.models.tokenizers import load_tokenizer
from jmamba.models.vim.images import preprocessing_of
from jmamba.models.vim.model import Vim

FOLDER = Path(__file__).parent
VIM_FOLDER = FOLDER / "vim"


class EmbeddedVim(NamedTuple):
    """A model of pictures and what is needed to ask it.

    Attributes:
      model: the model.
      class_names: what its classes are called, in their order.
      preprocessing: options of `jmamba.models.vim.images.preprocess`.
    """

    model: Vim
    class_names: tuple[str, ...]
    preprocessing: dict[str, Any]


def load_embedded(*, dtype=None) -> tuple[MambaLM, Tokenizer]:
    """Return the embedded language model and its tokenizer.

    Args:
      dtype: compute and storage dtype; None for float32.

    Examples:
      >>> model, tokenizer = load_embedded()
      >>> model.config.vocab_size, tokenizer.encode("hi")
      (256, [104, 105])
    """
    return MambaLM.from_pretrained(FOLDER, dtype=dtype), load_tokenizer(FOLDER)


def load_embedded_vim(*, dtype=None) -> EmbeddedVim:
    """Return the embedded Vision Mamba, its classes and how to prepare pictures.

    Args:
      dtype: compute and storage dtype; None for float32.

    Examples:
      >>> model, class_names, preprocessing = load_embedded_vim()
      >>> model.config.image_size, class_names[:3], preprocessing["crop"]
      (64, ('face', 'person', 'mammal'), 64)
    """
    model = Vim.from_pretrained(VIM_FOLDER, dtype=dtype)
    config = model.config
    return EmbeddedVim(model, config.class_names, preprocessing_of(config))
