"""Names of tensors that differ from a layout's only by what stands around them."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from jmamba.files.errors import CheckpointError

WRAPPERS = frozenset(
    {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
)
"""Parts of names that torch's wrappers put in, wherever they wrap a module."""


class Naming(NamedTuple):
    """What the tensors of a checkpoint are called in its layout.

    Attributes:
      names: stored name -> the layout's; those that are no tensor of it are left out.
      notes: what is different, each a part of a sentence; () if all names are usual.
    """

    names: dict[str, str]
    notes: tuple[str, ...]


class _Match(NamedTuple):
    name: str
    prefix: str
    is_bare: bool


def resolve_names(
    stored: Iterable[str], rows: Iterable[str], base: str, where: str
) -> Naming:
    """Find a layout's names in stored ones, whatever prefix they have.

    Wrappers of a model put a prefix before all names (`module.`, `model.`,
    `base_model.model.`) or a part inside of them (`_orig_mod.`), and a model without
    its head lacks the `base` before its own.

    Args:
      stored: the names that a checkpoint has.
      rows: the names of its layout; one with {} has a tensor per layer.
      base: what stands before the names of everything but the head.
      where: what to call the checkpoint.

    Raises:
      CheckpointError: the checkpoint holds several models under different prefixes.

    Examples:
      >>> rows = ["backbone.layers.{}.D", "backbone.norm.weight", "head.weight"]
      >>> naming = resolve_names(
      ...     ["module.layers.0.D", "module.norm.weight"], rows, "backbone.", "a file"
      ... )
      >>> list(naming.names.values())
      ['backbone.layers.0.D', 'backbone.norm.weight']
      >>> naming.notes[0]
      'names have the prefix "module."'
    """
    patterns = {key.removeprefix(base): (key, True) for key in rows if base}
    patterns |= {key: (key, False) for key in rows}
    longest = max(pattern.count(".") + 1 for pattern in patterns)
    matches = {n: match for n in stored if (match := _match(n, patterns, longest))}
    groups = Counter((match.prefix, match.is_bare) for match in matches.values())
    order = [group for group, _ in sorted(groups.items(), key=_rank)]
    names: dict[str, str] = {}
    used: list[tuple[str, bool]] = []
    for group in order:
        mine = {n: m.name for n, m in matches.items() if m[1:] == group}
        if set(mine.values()) & set(names.values()):
            _check_outranked(groups, used[0], group, where)
            continue
        if used and not used[0][0].startswith(group[0]):
            continue  # a stranger's: only a head may stand outside of its body
        names |= mine
        used.append(group)
    return Naming(names, tuple(_notes(used, names, base)))


def _match(
    name: str, patterns: dict[str, tuple[str, bool]], longest: int
) -> _Match | None:
    """Return which row a stored name is of, by the longest ending that is one.

    Args:
      name: the stored name, which may have a million parts.
      patterns: what endings are looked for.
      longest: most parts that one of them has.
    """
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    for start in range(max(0, len(parts) - longest), len(parts)):
        ending = parts[start:]
        pattern = ".".join("{}" if part.isdigit() else part for part in ending)
        if pattern in patterns:
            row, is_bare = patterns[pattern]
            numbers = [part for part in ending if part.isdigit()]
            prefix = "".join(f"{part}." for part in parts[:start])
            return _Match(row.format(*numbers), prefix, is_bare)
    return None


def _rank(item: tuple[tuple[str, bool], int]) -> tuple:
    """Return what groups are sorted by: usual names first, then by their number."""
    (prefix, is_bare), count = item
    return -count, prefix != "", is_bare, prefix


def _check_outranked(groups: Counter, first, second, where: str) -> None:
    if groups[first] == groups[second] and "" not in (first[0], second[0]):
        raise CheckpointError(
            f'{where} holds two models, under "{first[0]}" and "{second[0]}". Save the '
            "one that is meant alone, with its own names."
        )


def _notes(used: list[tuple[str, bool]], names: dict[str, str], base: str) -> list[str]:
    """Say in which ways the names that were found are not the usual ones."""
    prefixes = sorted({prefix for prefix, _ in used if prefix})
    inside = sorted({p for n in names for p in n.split(".") if p in WRAPPERS})
    notes = []
    if prefixes:
        quoted = " or ".join(f'"{prefix}"' for prefix in prefixes)
        every = all(prefix for prefix, _ in used)
        notes.append(f"{'names' if every else 'some names'} have the prefix {quoted}")
    if any(is_bare for _, is_bare in used):
        notes.append(f'names lack "{base}", as those of a model without its head')
    if inside:
        notes.append(f"names contain {', '.join(inside)}")
    return notes
