"""The command line: finds a command, runs it, and says what went wrong."""

import importlib
import io
import os
import sys
from collections.abc import Callable
from typing import Annotated, TextIO

import typer
import typer.core
import typer.main

from jmamba.commands.mistakes import exit_codes
from jmamba.commands.programs import keep_programs
from jmamba.commands.signals import INTERRUPTED, TERMINATED

LATER = {
    "explain": (
        "jmamba.commands.explain:explain_command",
        "Show what a model makes of a text or an image, and what drove it.",
    ),
    "dynamics": (
        "jmamba.commands.dynamics:dynamics_command",
        "Show how the tokens of a text move from layer to layer.",
    ),
    "lens": (
        "jmamba.commands.lens:lens_command",
        "Show what each layer would say after each token of a text.",
    ),
    "tune": (
        "jmamba.commands.tune:tune_command",
        "Train a tuned lens on a text, for `jmamba lens --tuned`.",
    ),
    "patch": (
        "jmamba.commands.patch:patch_command",
        "Show which layer and token carry what two texts differ in.",
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
        "Train a model on a text, or on tokenized texts.",
    ),
    "tokenize": (
        "jmamba.commands.tokenize:tokenize_command",
        "Turn texts into tokens on disk, to train on.",
    ),
    "finetune": (
        "jmamba.commands.finetune:finetune_command",
        "Make a classifier of texts of a language model.",
    ),
    "analyse": (
        "jmamba.commands.analyse:analyse_command",
        "Measure many documents, and write what is found to disk.",
    ),
    "plan": (
        "jmamba.commands.plan:plan_command",
        "Say what a model takes on a pod: memory, exchanges, time. No pod is needed.",
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
        with exit_codes(debug=bool(ctx.params.get("debug"))):
            return super().invoke(ctx)


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


def main(run: Callable[[], None] = app) -> None:
    """Run the command line, or another one.

    Args:
      run: the program; it ends by raising `SystemExit`.
    """
    sys.stdout, sys.stderr = _usable(sys.stdout), _usable(sys.stderr)
    keep_programs()
    try:
        run()
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
