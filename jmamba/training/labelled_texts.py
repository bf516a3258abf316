"""Texts with their classes, from a file of lines to rows of tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jmamba.files.errors import FileError
from jmamba.files.tokenizer import Tokenizer
from jmamba.files.untrusted import as_path, check_regular
from jmamba.training.classification import Labelled


class LabelledTexts(NamedTuple):
    """Texts, and which of the classes each is of.

    Attributes:
      texts: the texts.
      labels: the number of each one's class.
      class_names: of all classes.
    """

    texts: tuple[str, ...]
    labels: Int[np.ndarray, "b"]
    class_names: tuple[str, ...]


def read_labelled_texts(path: str | Path) -> LabelledTexts:
    """Read texts from lines of class and text, a tab between them.

    Classes are numbered in the order of their names.

    Raises:
      ValueError: there is no such file, a line has another form, or there are fewer
        than 2 classes.

    Examples:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), "texts.tsv")
      >>> _ = path.write_text("good\\tI liked it.\\nbad\\tNever again.\\n")
      >>> read_labelled_texts(path)[1:]
      (array([1, 0]), ('bad', 'good'))
    """
    path = as_path(path, error_class=FileError)
    check_regular(path, error_class=FileError)
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} cannot be read as UTF-8 text: {error}.") from error
    found = []
    for number, line in enumerate(lines, 1):
        name, tab, text = line.partition("\t")
        if not (name and tab and text):
            raise FileError(
                f"{path}, line {number}: {line[:40]!r} is not a class and a text with "
                "a tab between them, such as good<tab>I liked it."
            )
        found.append((name, text))
    names = tuple(sorted({name for name, _ in found}))
    if len(names) < 2:
        raise FileError(
            f"{path} has the classes {list(names)}; a classifier needs texts of two or "
            "more."
        )
    labels = np.array([names.index(name) for name, _ in found])
    return LabelledTexts(tuple(text for _, text in found), labels, names)


def encode_labelled(
    tokenizer: Tokenizer, given: LabelledTexts, *, length: int, pad: int
) -> Labelled:
    """Return the first tokens of each text as rows, padding behind them.

    Args:
      tokenizer: the model's.
      given: the texts.
      length: tokens of a row at most.
      pad: the id of padding.

    Raises:
      ValueError: a text holds padding, which would not be read.

    Examples:
      >>> from jmamba.checkpoints import ByteTokenizer
      >>> given = LabelledTexts(("hi", "you"), np.array([0, 1]), ("a", "b"))
      >>> encode_labelled(ByteTokenizer(), given, length=3, pad=0).inputs.tolist()
      [[104, 105, 0], [121, 111, 117]]
    """
    rows: list[Sequence[int]] = [tokenizer.encode(t)[:length] for t in given.texts]
    for number, row in enumerate(rows):
        if pad in row:
            raise ValueError(
                f"Text {number}, {given.texts[number][:40]!r}, holds token {pad}, "
                "which stands for padding and is not read; take it out."
            )
    tokens = np.full((len(rows), max(map(len, rows))), pad, np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    return Labelled(tokens, given.labels)


def hold_out(data: Labelled, *, part: float = 0.1) -> tuple[Labelled, Labelled]:
    """Split texts into those to train on and those to measure on, always alike.

    Args:
      data: encoded texts.
      part: of them that are measured on, one at least.

    Raises:
      ValueError: there are fewer than 2.

    Examples:
      >>> data = Labelled(np.zeros((20, 3), int), np.zeros(20, int))
      >>> [len(one.labels) for one in hold_out(data)]
      [18, 2]
    """
    count = len(data.labels)
    if count < 2:
        raise ValueError(f"{count} text cannot be split; give 2 or more.")
    order = np.random.default_rng(0).permutation(count)
    held = max(1, int(part * count))
    parts = order[:-held], order[-held:]
    train, test = (Labelled(data.inputs[one], data.labels[one]) for one in parts)
    return train, test
