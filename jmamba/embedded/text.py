"""The language model that comes with the package; README.md is its card."""

from pathlib import Path
from typing import Any

from jmamba.files.tokenizer import Tokenizer
from jmamba.models.mamba.model import MambaLM
from jmamba.models.tokenizers import load_tokenizer

FOLDER = Path(__file__).parent


def load_embedded(
    *, dtype: Any = None, weights: str | None = None
) -> tuple[MambaLM, Tokenizer]:
    """Return the embedded language model and its tokenizer.

    Args:
      dtype: compute and storage dtype; None for float32.
      weights: "int8" for matrices in 8 bits.

    Examples:
      >>> model, tokenizer = load_embedded()
      >>> model.config.vocab_size, tokenizer.encode("hi")
      (256, [104, 105])
    """
    model = MambaLM.from_pretrained(FOLDER, dtype=dtype, weights=weights)
    return model, load_tokenizer(FOLDER)
