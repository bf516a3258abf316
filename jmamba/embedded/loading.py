"""Loading the model that comes with the package: a small byte-level Mamba.

README.md beside this file is its card.
"""

from pathlib import Path

from jmamba.checkpoints import Tokenizer, load_tokenizer
from jmamba.models.language_model import MambaLM

FOLDER = Path(__file__).parent


def load_embedded(*, dtype=None) -> tuple[MambaLM, Tokenizer]:
    """Return the embedded model and its tokenizer.

    Args:
      dtype: compute and storage dtype; None for float32.

    Examples:
      >>> model, tokenizer = load_embedded()
      >>> model.config.vocab_size, tokenizer.encode("hi")
      (256, [104, 105])
    """
    return MambaLM.from_pretrained(FOLDER, dtype=dtype), load_tokenizer(FOLDER)
