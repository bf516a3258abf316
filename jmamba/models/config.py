"""Sizes and choices around the blocks of a language model."""

import dataclasses
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from jmamba.layers.fields import Depth, Positive, Rows, TokenId, Width, check_fields

Named = TypeVar("Named", bound="Released")

NEOX_TOKENS = {
    "unpadded_vocab_size": 50277,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
"""What models say that were trained on texts cut by GPT-NeoX's tokenizer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Describe what is around the blocks of a language model.

    Attributes:
      vocab_size: rows of the embedding table, padding included.
      d_model: width of the residual stream.
      num_layers: number of blocks.
      norm_eps: epsilon of the RMS norms of the residual stream.
      residual_in_fp32: whether the residual stream is float32 under lower precision.
      tie_embeddings: whether the output projection is the embedding table.
      bos_token_id: id that begins a text; None if there is none.
      eos_token_id: id that ends a text, several of them, or None if there is none.
      pad_token_id: id that fills up shorter texts; None if there is none.
      unpadded_vocab_size: tokens that there are; rows of the table from there on are
        padding, which `generate` never draws. None if all rows are tokens.
      generation_config: what the checkpoint's generation_config.json says. It is
        written back as it was; its end tokens win, as in transformers.

    Raises:
      ValueError: a field is of another type or not in its range.
    """

    vocab_size: Rows
    d_model: Width
    num_layers: Depth
    norm_eps: Positive = 1e-5
    residual_in_fp32: bool = True
    tie_embeddings: bool = True
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | Sequence[TokenId] | None = None
    pad_token_id: TokenId | None = None
    unpadded_vocab_size: int | None = None
    generation_config: Mapping[str, Any] | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    def __post_init__(self):
        """Check all fields and the vocabulary."""
        self.check_vocabulary()
        check_fields(self)

    def check_vocabulary(self) -> None:
        """Raise unless the end tokens and the number of tokens can be.

        Raises:
          ValueError: they cannot.
        """
        ids = self.eos_token_id
        if isinstance(ids, Iterable) and not isinstance(ids, str):  # to have a hash
            object.__setattr__(self, "eos_token_id", tuple(ids))
        generation = self.generation_config or {}
        for ends in (ids, generation.get("eos_token_id")):
            if not all(map(_is_count, _listed(ends))):
                raise ValueError(
                    "eos_token_id must be a token id, several or None, but is "
                    f"{reprlib.repr(ends)}."
                )
        count = self.unpadded_vocab_size
        if count is not None and not (
            _is_count(count)
            and _is_count(self.vocab_size)
            and 0 < count <= self.vocab_size
        ):
            raise ValueError(
                f"unpadded_vocab_size must be 1 to vocab_size={self.vocab_size}, or "
                f"None if no row is padding, but is {reprlib.repr(count)}."
            )

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """All ids that end a text; () if there are none.

        Those of `generation_config` if there is one, else `eos_token_id`.
        """
        if self.generation_config is None:
            return _listed(self.eos_token_id)
        return _listed(self.generation_config.get("eos_token_id"))


class Released:
    """Configurations that have a name, of models that their authors released.

    Attributes:
      released: name -> fields.
    """

    released: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @classmethod
    def named(cls: type[Named], name: str) -> Named:
        """Return the configuration of a released model by its short name.

        Raises:
          ValueError: the name is unknown; the message lists the known ones.
        """
        if name not in cls.released:
            raise ValueError(
                f"Unknown configuration {name!r}; known are {', '.join(cls.released)}."
            )
        return cls(**cls.released[name])


def _listed(ids: Any) -> tuple[Any, ...]:
    if ids is None:
        return ()
    several = isinstance(ids, Iterable) and not isinstance(ids, str)
    return tuple(ids) if several else (ids,)


def _is_count(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and x >= 0
