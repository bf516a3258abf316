"""The command `jmamba reproduce`: run an experiment to its tables and figures."""

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown

from jmamba.commands.signals import resumable
from jmamba.commands.stages import stages
from jmamba.files.untrusted import as_path
from jmamba.recipes.registry import RECIPES, load_recipe
from jmamba.recipes.workbench import Workbench
from jmamba.training.memory import check_run_memory


def reproduce_command(
    name: Annotated[
        str | None, typer.Argument(help="The recipe; none lists them all.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write; jmamba-NAME if left out.",
            parser=as_path,
            metavar="PATH",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with the data sets.", parser=as_path, metavar="PATH"),
    ] = None,
    size: Annotated[str, typer.Option(help="quick, cpu or large.")] = "cpu",
    change: Annotated[
        list[str] | None, typer.Option("--set", help="field=value of the recipe.")
    ] = None,
) -> None:
    """Run an experiment of the papers: its tables and figures.

    Run again with the same options to go on after an interruption.
    """
    console = Console(highlight=False)
    if name is None:
        for known, line in RECIPES.items():
            console.print(f"[bold]{known}[/]  {line}")
        return
    recipe = load_recipe(name)
    if size not in recipe.sizes:
        raise ValueError(f"size={size!r}: give one of {', '.join(recipe.sizes)}.")
    config = change_fields(recipe.sizes[size], change or [])
    check_run_memory(
        config.least_bytes(),
        name,
        "Give smaller numbers with --set, or another --size.",
    )
    command = ["jmamba", "reproduce", name, "--size", size]
    command += [] if data is None else ["--data", "FOLDER"]
    command += [part for text in change or [] for part in ("--set", text)]
    with stages() as show:
        bench = Workbench(
            out or Path(f"jmamba-{name}"),
            name=name,
            config=config,
            data=data,
            show=show,
            command=shlex.join(command),
        )
        with resumable():
            recipe.run(config, bench)
            path = bench.finish()
    _print_results(path.read_text(encoding="utf-8"), console)
    console.print(f"All of it is in {path.parent}.", soft_wrap=True)


def _print_results(text: str, console: Console) -> None:
    """Print a page of results, rendered in a terminal and as it is elsewhere."""
    if not console.is_terminal:
        console.print(text, markup=False, soft_wrap=True)
        return
    # a figure's file name in front of its caption, in place of the figure
    console.print(Markdown(re.sub(r"!\[[^]]*\]\(([^)]*)\)\n\n", r"`\1`: ", text)))


def change_fields(config: Any, changes: list[str]) -> Any:
    """Return a configuration with fields changed by texts such as "steps=100".

    Raises:
      ValueError: a text is no field=value, there is no such field, or the value is of
        another type.

    Examples:
      >>> from jmamba.training.config import TrainConfig
      >>> change_fields(TrainConfig(9, 1, warmup=1), ["steps=20"]).steps
      20
    """
    known = {field.name: getattr(config, field.name) for field in _fields(config)}
    new = {}
    for text in changes:
        key, sign, value = text.partition("=")
        if not sign or key not in known:
            raise ValueError(
                f"--set {text}: give field=value with one of the fields "
                f"{', '.join(known)}."
            )
        new[key] = _parse(key, value, known[key])
    return dataclasses.replace(config, **new)


def _fields(config):
    return [field for field in dataclasses.fields(config) if field.init]


def _parse(key: str, text: str, old: Any) -> Any:
    """Read a value of the type, and in the range, that the field had."""
    try:
        value: Any = text if isinstance(old, str) else json.loads(text)
        value = tuple(value) if isinstance(old, tuple) else value
        value = float(value) if isinstance(old, float) else value
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        value = error
    if not _is_like(value, old):
        raise ValueError(
            f"--set {key}={text}: give a value like the present one, {old!r}."
        )
    return value


def _is_like(value: Any, old: Any) -> bool:
    """Say whether a value can be in the place of another."""
    if type(value) is not type(old):
        return False
    if isinstance(old, tuple):
        is_empty = bool(old) and not value
        twice = len({repr(one) for one in value}) < len(value)
        return not (is_empty or twice) and all(_is_like(v, old[0]) for v in value)
    if isinstance(old, bool) or not isinstance(old, int | float):
        return True
    least = 1 if isinstance(old, int) and old > 0 else 0
    return least <= value < 2**31  # nor NaN
