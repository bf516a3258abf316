"""The Vision Mamba that comes with the package; vim/README.md is its card."""

from pathlib import Path
from typing import Any, NamedTuple

from jmamba.models.vim.images import preprocessing_of
from jmamba.models.vim.model import Vim

VIM_FOLDER = Path(__file__).parent / "vim"


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
