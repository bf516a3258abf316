"""What a model chooses between, as a user types it and reads it: tokens, or classes."""

import difflib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from jmamba.figures.labels import label_next
from jmamba.files.tokenizer import Tokenizer
from jmamba.models.classes import Classes
from jmamba.models.text_model import TextModel
from jmamba.report.predictions import CLASSES, NEXT_TOKENS, Kind


class Outcomes(NamedTuple):
    """What a model of texts chooses between.

    Attributes:
      kind: what they are called.
      choose: called with what a user types, a name or a number; returns the number, or
        raises a ValueError.
      label: called as label(before, numbers) with the last token of the text; returns
        readable forms.
    """

    kind: Kind
    choose: Callable[[int | str], int]
    label: Callable[[int, list[int]], tuple[str, ...]]


def outcomes_of(model: TextModel, tokenizer: Tokenizer) -> Outcomes:
    """Return what a model chooses between: next tokens, or the classes of its head.

    Args:
      model: a language model or a classifier of texts.
      tokenizer: its tokenizer.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> from jmamba.checkpoints import ByteTokenizer
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=8, num_layers=1)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> outcomes_of(model, ByteTokenizer()).choose("a")
      97
      >>> judge = jmamba.MambaClassifier.from_language_model(model, ["bad", "good"])
      >>> outcomes_of(judge, ByteTokenizer()).choose("good")
      1
    """
    config = model.config
    if isinstance(config, Classes):
        return Outcomes(
            CLASSES,
            partial(choose_class, config),
            lambda before, numbers: tuple(label_class(config, i) for i in numbers),
        )
    return Outcomes(
        NEXT_TOKENS,
        partial(choose_token, tokenizer, model.num_targets),
        partial(label_next, tokenizer),
    )


def choose_token(tokenizer: Tokenizer, size: int, target: int | str) -> int:
    """Return the id of a token that is given by its text or its id.

    A text that stands for itself comes first, with a space before it where only then it
    is one token; digits that are no token are an id.

    Args:
      tokenizer: the model's.
      size: tokens of the vocabulary.
      target: the token.

    Raises:
      ValueError: it is no single token, or no id of the vocabulary.

    Examples:
      >>> from jmamba.checkpoints import ByteTokenizer
      >>> [choose_token(ByteTokenizer(), 256, one) for one in ("a", 97, "97")]
      [97, 97, 97]
    """
    if isinstance(target, str):
        spelled = [tokenizer.encode(text) for text in (target, f" {target}")]
        for ids in spelled:
            if len(ids) == 1:
                return ids[0]
        if not target.strip().isdecimal():
            cut = " + ".join(repr(piece) for piece in tokenizer.pieces(spelled[0]))
            raise ValueError(
                f"{target!r} is {len(spelled[0])} tokens ({cut}), but a prediction is "
                "one: give the text of one token, or an id."
            )
        target = int(target)
    if not 0 <= target < size:
        raise ValueError(
            f"There is no token {target}: the vocabulary has ids 0 to {size - 1}."
        )
    return target


def choose_class(config: Classes, target: int | str) -> int:
    """Return the number of a class that is given by number or name.

    Raises:
      ValueError: there is no such class, or the model has no names.

    Examples:
      >>> config = Classes(num_classes=2, class_names=("cat", "dog"))
      >>> [choose_class(config, target) for target in ("Dog", "1", 0)]
      [1, 1, 0]
    """
    count, names = config.num_classes, config.class_names
    text = str(target).strip()
    if text.lstrip("-").isdecimal():
        if not 0 <= int(text) < count:
            raise ValueError(
                f"There is no class {text}: the model tells {count} apart, 0 to "
                f"{count - 1}."
            )
        return int(text)
    if not names:
        raise ValueError(
            f"There is no class {text!r}, as the model's config.json names none: give "
            f'a number from 0 to {count - 1}, or add "id2label" to it.'
        )
    folded = [name.casefold() for name in names]
    if text.casefold() in folded:
        return folded.index(text.casefold())
    near = difflib.get_close_matches(text.casefold(), folded, n=5, cutoff=0.5)
    shown = [names[folded.index(one)] for one in near] or list(names[:12])
    more = ", ..." if not near and len(names) > 12 else ""
    raise ValueError(
        f"There is no class {text!r}. {'Near are' if near else 'Classes are'} "
        f"{', '.join(shown)}{more}; a number from 0 to {count - 1} will do too."
    )


def label_class(config: Classes, number: int) -> str:
    """Return what a class is called, by its number if it has no name."""
    return config.class_names[number] if config.class_names else f"class {number}"
