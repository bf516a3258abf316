"""The command line: finds a command, runs it, and says what went wrong."""

import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any, TextIO

import typer
import typer.core
import typer.main

from jmamba.commands.signals import (
    INTERRUPTED,
    TERMINATED,
    Terminated,
    catch_termination,
)

UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # type: ignore[assignment]
"""What typer raises of options; it is click's, or a copy of its own."""

MISTAKES = (
    *(ValueError, TypeError, ArithmeticError, OSError, MemoryError),
    UsageError,
)
"""What a user's mistake raises."""

LATER = {
    "explain": (
        "jmamba.commands.explain:explain_command",
        "Show what a model makes of a text or an image, and what drove it.",
    ),
    "dynamics": (
        "jmamba.commands.dynamics:dynamics_command",
        "Show how the tokens of a text move from layer to layer.",
    ),
    "generate": (
        "jmamba.commands.generate:generate_command",
        "Continue a text, printing it as it is made.",
    ),
    "convert": (
        "jmamba.commands.convert:convert_command",
        "Convert a checkpoint: PyTorch in, JAX out, or back to PyTorch.",
    ),
    "train": (
        "jmamba.commands.train:train_command",
        "Train a byte-level model on a file.",
    ),
    "reproduce": (
        "jmamba.commands.reproduce:reproduce_command",
        "Run an experiment of the papers: its tables and figures.",
    ),
    "info": (
        "jmamba.commands.info:info_command",
        "Show versions, devices, and what runs the scan on them.",
    ),
}
"""Commands of other modules, imported when they are run."""


class Commands(typer.core.TyperGroup):
    """Turns errors into one paragraph and an exit code, and imports commands late."""

    def parse_args(self, ctx, args):
        """Take --debug wherever it stands."""
        end = args.index("--") if "--" in args else len(args)
        if "--debug" in args[:end]:
            args = ["--debug", *(a for a in args[:end] if a != "--debug"), *args[end:]]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx):
        """Return the names of all commands."""
        return [*LATER, *super().list_commands(ctx)]

    def get_command(self, ctx, cmd_name):
        """Return a command; one of another module only with its line of help."""
        if cmd_name not in LATER:
            return super().get_command(ctx, cmd_name)
        return typer.core.TyperCommand(cmd_name, help=LATER[cmd_name][1])

    def resolve_command(self, ctx, args):
        """Return the command to run, importing it if need be."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in LATER:
            module, function = LATER[name][0].split(":")
            one = typer.Typer(add_completion=False)
            one.command(name)(getattr(importlib.import_module(module), function))
            command = typer.main.get_command(one)
        return name, command, rest

    def invoke(self, ctx):
        """Run a command; a user's mistake exits with 2, Ctrl-C with 130."""
        debug = ctx.params.get("debug")
        try:
            with warnings.catch_warnings(), catch_termination():
                warnings.showwarning = _notes()
                return super().invoke(ctx)
        except KeyboardInterrupt as error:
            _complain(f"Interrupted; {f'{error}' or 'nothing half-written is left.'}")
            is_ended = isinstance(error, Terminated)
            raise typer.Exit(TERMINATED if is_ended else INTERRUPTED) from error
        except typer.Exit as error:
            if debug and error.__cause__ is not None:
                raise error.__cause__ from None
            raise
        except MISTAKES as error:
            if debug or isinstance(error, BrokenPipeError):  # `| head` is no mistake
                raise
            _complain(_explain_error(error))
            raise typer.Exit(2) from error
        except RuntimeError as error:
            if debug or "RESOURCE_EXHAUSTED" not in str(error):
                raise
            _complain(f"The memory does not suffice: {str(error).splitlines()[0]}")
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Mamba in JAX, for people who want to see inside it.",
)


def _show_version(wanted: bool) -> bool:
    if wanted:
        from jmamba import __version__

        typer.echo(__version__)
        raise typer.Exit()
    return wanted


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error came from.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Version."
        ),
    ] = False,
) -> None:
    """Mamba in JAX, for people who want to see inside it."""


def _complain(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def _explain_error(error: BaseException) -> str:
    """Return what an error says, in one paragraph."""
    if isinstance(error, UsageError):
        ctx = getattr(error, "ctx", None)
        command = "jmamba" if ctx is None else ctx.command_path
        says = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
        return f"{says} See {command} --help."
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror}."
    return f"{error}" or type(error).__name__


def _notes() -> Callable[..., None]:
    """Return what shows a warning as a note, each once and without its line of code."""
    said: set[str] = set()

    def show(message: Warning | str, *place: Any) -> None:
        if str(message) not in said:
            said.add(str(message))
            _complain(f"Note: {message}")

    return show


def main() -> None:
    """Run the command line."""
    sys.stdout, sys.stderr = _usable(sys.stdout), _usable(sys.stderr)
    try:
        app()
    except SystemExit as ended:
        if ended.code in (INTERRUPTED, TERMINATED):
            # XLA may still be at work in other threads, which tearing down the
            # interpreter below them crashes.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ended.code)
        raise


def _usable(stream: TextIO | None) -> TextIO:
    """Return a stream that takes any text: one that is closed drops it all."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="replace")  # a terminal may know ASCII only
    return stream
