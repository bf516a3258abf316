"""What the fields of a configuration may be: a type and a range, beside each field."""

import dataclasses
import reprlib
from collections.abc import Mapping, Sequence
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints


@dataclasses.dataclass(frozen=True)
class Within:
    """Bounds of a number.

    Attributes:
      least: the smallest.
      most: the largest.
      is_open: whether `least` itself is not allowed.

    Examples:
      >>> str(Within(1, 4096)), str(Within(0, 9, is_open=True))
      ('from 1 to 4,096', 'above 0 and at most 9')
    """

    least: float | int
    most: float | int
    is_open: bool = False

    def includes(self, number: float | int) -> bool:
        """Say whether a number lies within; NaN does not."""
        above = number > self.least if self.is_open else number >= self.least
        return bool(above and number <= self.most)

    def __str__(self) -> str:
        """Return the bounds in words."""
        if self.is_open:
            return f"above {self.least:,} and at most {self.most:,}"
        return f"from {self.least:,} to {self.most:,}"


Width = Annotated[int, Within(1, 2**20)]
DerivedWidth = Annotated[int, Within(0, 2**20)]  # 0 to derive it from others
Depth = Annotated[int, Within(1, 2**14)]
Rows = Annotated[int, Within(1, 2**24)]
Side = Annotated[int, Within(1, 2**14)]
TokenId = Annotated[int, Within(0, 2**31 - 1)]
Positive = Annotated[float, Within(0, 1e6, is_open=True)]
Magnitude = Annotated[float, Within(0, 1e6)]
"""Types of fields. Their bounds are far above any model, and so that no product of them
overflows: what a file says is compared with its weights before anything is made."""

_WORDS = {bool: "True or False", int: "an integer", float: "a number", str: "a text"}


def check_fields(config: Any) -> None:
    """Raise unless all fields of a configuration are of their type, in their range.

    Raises:
      ValueError: some are not; the message lists them.

    Examples:
      >>> @dataclasses.dataclass
      ... class Sizes:
      ...     width: Width
      ...     is_wide: bool = False
      >>> check_fields(Sizes(0, is_wide=True))
      Traceback (most recent call last):
      ValueError: Sizes: width must be an integer from 1 to 1,048,576, but is 0.
    """
    hints = _hints(type(config))
    values = {name: getattr(config, name) for name in hints}
    wrong = [
        _refusal(name, value, hints[name])
        for name, value in values.items()
        if not fits(value, hints[name])
    ]
    if wrong:
        raise ValueError(f"{type(config).__name__}: {'; '.join(wrong)}.")


def check_field(config_class: type, field: str, value: Any, name: str) -> Any:
    """Return a value that a field of a configuration may have.

    Args:
      config_class: the configuration's.
      field: its field.
      value: what was read.
      name: what the value is called where it was read.

    Raises:
      ValueError: it may not.
    """
    hint = _hints(config_class)[field]
    if not fits(value, hint):
        raise ValueError(f"{_refusal(name, value, hint)}.")
    return value


def fits(value: Any, hint: Any) -> bool:
    """Say whether a value is of a type and in its range; True is no number.

    Examples:
      >>> fits(3, Width), fits(True, Width), fits(float("nan"), Positive)
      (True, False, False)
      >>> fits([1, 2], Sequence[int] | None), fits("12", Sequence[int] | None)
      (True, False)
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        within = [limit for limit in args[1:] if isinstance(limit, Within)]
        return fits(value, args[0]) and all(limit.includes(value) for limit in within)
    if origin in (Union, UnionType):
        return any(fits(value, arg) for arg in args)
    if origin in (tuple, Sequence):
        return isinstance(value, list | tuple) and all(fits(x, args[0]) for x in value)
    if origin is Mapping:
        return isinstance(value, Mapping)
    if hint in (None, NoneType):
        return value is None
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, Real) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


@cache
def _hints(config_class: type) -> dict[str, Any]:
    hints = get_type_hints(config_class, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_class)}


def _refusal(name: str, value: Any, hint: Any) -> str:
    return f"{name} must be {_describe(hint)}, but is {reprlib.repr(value)}"


def _describe(hint: Any) -> str:
    """Return a type and its range in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return " ".join([_describe(args[0]), *map(str, args[1:])])
    if origin in (Union, UnionType):
        return " or ".join(map(_describe, args))
    if origin in (tuple, Sequence):
        return f"a list, each {_describe(args[0])}"
    if origin is Mapping:
        return "an object"
    return "None" if hint in (None, NoneType) else _WORDS.get(hint, str(hint))
