"""A command's options in a TOML file, read and written."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from jmamba.files.untrusted import check_regular, first_line

if TYPE_CHECKING:
    Context = typer.Context
else:
    Context = typer.Context.__mro__[1]  # what typer gives: click's, or its own copy


def read_options(ctx: Context, path: Path | None) -> Path | None:
    """Take what a TOML file says for options that are not typed.

    It is the callback of an option that is eager: it comes before all others.

    Args:
      ctx: of the command.
      path: of the file, whose names are those of the options; None for none.

    Raises:
      ValueError: it cannot be read, or names what is no option.
    """
    if path is None:
        return None
    check_regular(path)
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no TOML file: {first_line(error)}.") from error
    found = {name.replace("-", "_"): value for name, value in found.items()}
    known = {param.name for param in ctx.command.params} - {"config", "help"}
    unknown = sorted(set(found) - known)
    if unknown:
        raise ValueError(
            f"{path} has what is no option of {ctx.command_path}: "
            f"{', '.join(unknown)}. There are {', '.join(sorted(map(str, known)))}."
        )
    odd = [name for name, x in found.items() if isinstance(x, dict | list)]
    if odd:
        raise ValueError(f"{path}: {', '.join(odd)} must be one value, not several.")
    ctx.default_map = {**(ctx.default_map or {}), **found}
    return path


def options_text(options: Mapping[str, Any], comment: str) -> str:
    """Return options as a TOML file; those that are None are left out.

    Args:
      options: name -> text, number, bool or path.
      comment: for the first line.

    Examples:
      >>> print(options_text({"steps": 9, "mesh": None, "out": Path("a")}, "a run"))
      # a run
      steps = 9
      out = "a"
      <BLANKLINE>
    """
    lines = [
        f"{name} = {_value(value)}"
        for name, value in options.items()
        if value is not None
    ]
    return "\n".join([f"# {comment}", *lines, ""])


def _value(value: Any) -> str:
    if isinstance(value, bool | int | float):
        return str(value).lower()
    return json.dumps(str(value), ensure_ascii=False)
