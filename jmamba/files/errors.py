"""What goes wrong with files, said in one paragraph."""

import re
from collections.abc import Iterable

MOST_ITEMS = 60
"""Names that a message lists; files may hold a million."""


class FileError(ValueError):
    """A file cannot be used as what it should be, whatever is wrong with it.

    The message is one paragraph: what was found, what is needed, what to do.
    """


class CheckpointError(FileError):
    """A checkpoint, a Hub id or an output folder cannot be used as it is.

    The message is one paragraph: what was found, what is needed, what to do.
    """


def compress(keys: Iterable[str], *, separator: str = ", ") -> str:
    """Return keys as one readable list, layers that agree sharing an item.

    Of very many the first are listed, and how many more there are.

    Examples:
      >>> compress(["layers.0.D", "layers.1.D", "layers.3.D", "norm"])
      'layers.{0-1,3}.D, norm'
    """
    layers: dict[str, list[int]] = {}
    for key in keys:
        found = re.search(r"(?<=layers\.)\d{1,9}(?=\.)", key)
        name = (
            key if found is None else key[: found.start()] + "{}" + key[found.end() :]
        )
        layers.setdefault(name, []).extend([] if found is None else [int(found[0])])
    items = [
        name.replace("{}", _ranges(sorted(numbers)) if numbers else "{}")
        for name, numbers in list(layers.items())[:MOST_ITEMS]
    ]
    more = len(layers) - len(items)
    return separator.join(items + ([f"and {more} more"] if more else []))


def _ranges(numbers: list[int]) -> str:
    """Write sorted numbers as 3 or {0-2,5}."""
    if len(numbers) == 1:
        return str(numbers[0])
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    spans = (str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)
    return "{" + ",".join(spans) + "}"
