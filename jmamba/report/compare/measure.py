"""Two texts, or two models, explained the same way."""

import dataclasses
from typing import Any

import numpy as np

from jmamba.files.tokenizer import Tokenizer
from jmamba.models.text_model import TextModel
from jmamba.progress import Progress, ignore
from jmamba.report.display import Displayed
from jmamba.report.text.explanation import Explanation
from jmamba.report.text.measure import explain_text


@dataclasses.dataclass(frozen=True, repr=False)
class TextComparison(Displayed):
    """Two explanations beside each other; see `compare_texts`.

    Attributes:
      first, second: the explanations.
      names: what each is called.
    """

    first: Explanation
    second: Explanation
    names: tuple[str, str]

    def __repr__(self) -> str:
        """Return both explanations, without the arrays."""
        return "\n".join(f"{name}: {one!r}" for name, one in self.pairs)

    @property
    def pairs(self) -> list[tuple[str, Explanation]]:
        """Each explanation behind its name."""
        return list(zip(self.names, (self.first, self.second), strict=True))

    @property
    def of_models(self) -> bool:
        """Whether one text was given to two models."""
        return self.first.text == self.second.text

    @property
    def title(self) -> str:
        """What is beside what, in words."""
        return "One text, two models" if self.of_models else "Two texts"

    @property
    def model(self) -> str:
        """The name of the model, or of both."""
        return " and ".join(dict.fromkeys(one.model for _, one in self.pairs))

    @property
    def settings(self) -> dict[str, Any]:
        """What was asked for; of what differs, both."""
        one, two = self.first.settings, self.second.settings
        return {
            k: x if two.get(k) == x else f"{x} and {two.get(k)}" for k, x in one.items()
        }

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, device and implementation."""
        return self.first.environment

    @property
    def timings(self) -> dict[str, float]:
        """Seconds per stage, both added up."""
        stages = self.first.timings
        return {k: round(v + self.second.timings[k], 3) for k, v in stages.items()
                if k in self.second.timings}  # fmt: skip

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of both to store: first_attention, second_attention, ..."""
        sides = zip(("first", "second"), (self.first, self.second), strict=True)
        return {f"{s}_{k}": x for s, one in sides for k, x in one.arrays().items()}


def compare_texts(
    model: TextModel,
    tokenizer: Tokenizer,
    first: str,
    second: str | None = None,
    *,
    other: tuple[TextModel, Tokenizer] | None = None,
    names: tuple[str, str] = ("model", "other model"),
    progress: Progress = ignore,
    **options: Any,
) -> TextComparison:
    """Explain two texts, or what two models make of one, in the same way.

    Args:
      model, tokenizer: of the first explanation.
      first: the text.
      second: another text; None for the same one.
      other: another model and its tokenizer; None for the same one.
      names: of both models.
      progress: told how far each stage is.
      options: of both, as `explain_text` takes them. A target counts for both: without
        one, each explains what it finds likeliest itself.

    Raises:
      ValueError: both are the same, or as `explain_text` says.

    Examples:
      >>> from flax import nnx
      >>> from jmamba import MambaConfig, MambaLM
      >>> from jmamba.checkpoints import ByteTokenizer
      >>> config = MambaConfig(vocab_size=256, d_model=8, num_layers=1)
      >>> model = MambaLM(config, rngs=nnx.Rngs(0))
      >>> both = compare_texts(model, ByteTokenizer(), "ab", "ba", jacobian=False)
      >>> both.names, both.first.left_out.shape
      (('first text', 'second text'), (2,))
    """
    check_differ(first, second, is_other=other is not None)
    second = first if second is None else second
    one = explain_text(
        model, tokenizer, first, name=names[0], progress=progress, **options
    )
    model, tokenizer = other or (model, tokenizer)
    name = names[1] if other else names[0]
    two = explain_text(
        model, tokenizer, second, name=name, progress=progress, **options
    )
    called = names
    if second != first:
        places = ("first text", "second text")
        called = (
            places
            if other is None
            else (
                f"{places[0]}, {names[0]}",
                f"{places[1]}, {names[1]}",
            )
        )
    return TextComparison(one, two, called)


def check_differ(first: str, second: str | None, *, is_other: bool) -> None:
    """Raise unless there are two texts to compare, or two models.

    Args:
      first: a text.
      second: another one, or None.
      is_other: whether there is another model.

    Raises:
      ValueError: neither text nor model differs.
    """
    if second in (None, first) and not is_other:
        raise ValueError(
            f"Both texts are {first!r}: give another one with --compare (second=), or "
            "another model with --compare-model (other=)."
        )
