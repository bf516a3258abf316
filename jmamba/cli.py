"""The command line: explain, dynamics, generate, convert, info, train, reproduce."""

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
import typer.core
import typer.main
from rich.console import Console

INTERRUPTED = 130
LATER = {
    "convert": (
        "jmamba.checkpoints.command:convert_command",
        "Convert a checkpoint: PyTorch in, JAX out, or back to PyTorch.",
    ),
    "train": (
        "jmamba.training.command:train_command",
        "Train a byte-level model on a file.",
    ),
    "reproduce": (
        "jmamba.recipes.command:reproduce_command",
        "Run an experiment of the papers: its tables and figures.",
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
        return [*super().list_commands(ctx), *LATER]

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
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            _complain("Interrupted; nothing half-written is left.")
            raise typer.Exit(INTERRUPTED) from error
        except typer.Exit as error:
            if debug and error.__cause__ is not None:
                raise error.__cause__ from None
            raise
        except (ValueError, TypeError, OSError, MemoryError) as error:
            if debug or isinstance(error, BrokenPipeError):  # `| head` is no mistake
                raise
            _complain(f"{error}" or type(error).__name__)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Mamba in JAX, for people who want to see inside it.",
)

Model = Annotated[
    str | None,
    typer.Option(help="Checkpoint folder or Hub id; the embedded model if left out."),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]
Dtype = Annotated[
    str | None, typer.Option(help="float32 (if left out), bfloat16 or float16.")
]
File = Annotated[Path | None, typer.Option(help="Read the text from a UTF-8 file.")]


def _show_version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("jmamba"))
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


@app.command()
def explain(
    text: Annotated[
        str | None, typer.Argument(help='The text; "-" reads standard input.')
    ] = None,
    file: File = None,
    model: Model = None,
    revision: Revision = None,
    dtype: Dtype = None,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("jmamba-out"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write into a folder of other files.")
    ] = False,
    layers: Annotated[
        str | None, typer.Option(help="Layers to draw large, such as 3,6,-1.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many next tokens and drivers.")] = 8,
    matrices: Annotated[
        bool, typer.Option(help="Attention between all pairs of tokens.")
    ] = True,
    jacobian: Annotated[
        bool, typer.Option(help="Norms of the token Jacobian's blocks.")
    ] = True,
    probes: Annotated[
        int | None, typer.Option(help="Random directions per token for the Jacobian.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest text for --matrices.")] = 512,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser.")
    ] = False,
) -> None:
    """Show what a model expects after a text, what drove it, and what it attends to.

    Prints the prediction and writes a folder with a page, pictures and arrays.
    """
    from jmamba.report.reading import parse_layers, read_text
    from jmamba.report.stages import stages

    text = read_text(text, file)
    chosen = parse_layers(layers)
    with stages() as show:
        show("loading the model", 0, 1)
        from jmamba import report
        from jmamba.report.folder import check_directory
        from jmamba.report.terminal import render

        check_directory(out, overwrite=overwrite)
        language_model, tokenizer, name = _load(model, revision, dtype)
        found = report.explain(
            language_model,
            tokenizer,
            text,
            layers=chosen,
            top=top,
            matrices=matrices,
            jacobian=jacobian,
            probes=probes,
            max_tokens=max_tokens,
            name=name,
            progress=show,
        )
        page = report.write(found, out, overwrite=overwrite, progress=show)
    console = Console(highlight=False)
    console.print(render(found))
    seconds = sum(found.timings.values())
    console.print(f"\nComputed in {seconds:.1f} s. The page with all figures:")
    console.print(str(page.resolve()), soft_wrap=True)
    if open_page:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())


@app.command()
def dynamics(
    text: Annotated[
        str | None, typer.Argument(help='The text; "-" reads standard input.')
    ] = None,
    file: File = None,
    model: Model = None,
    revision: Revision = None,
    dtype: Dtype = None,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path(
        "jmamba-dynamics"
    ),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write into a folder of other files.")
    ] = False,
    exponents: Annotated[int, typer.Option(help="How many exponents over depth.")] = 8,
) -> None:
    """Show how the tokens of a text move from layer to layer.

    Prints what the theory of token dynamics asks of each layer and writes a folder
    with a page, pictures and arrays.
    """
    from jmamba.report.reading import read_text
    from jmamba.report.stages import stages

    text = read_text(text, file)
    with stages() as show:
        show("loading the model", 0, 1)
        from jmamba.report.dynamics import measure_dynamics
        from jmamba.report.dynamics_page import write_dynamics
        from jmamba.report.folder import check_directory

        check_directory(out, overwrite=overwrite)
        language_model, tokenizer, name = _load(model, revision, dtype)
        found = measure_dynamics(
            language_model,
            tokenizer,
            text,
            exponents=exponents,
            name=name,
            progress=show,
        )
        page = write_dynamics(found, out, overwrite=overwrite, progress=show)
    console = Console(highlight=False)
    console.print(found.regimes.as_table(), soft_wrap=True)
    growing = ", ".join(f"{v:.3g}" for v in found.exponents)
    console.print(f"\nExponents over depth: {growing}")
    console.print("The page with all figures:")
    console.print(str(page.resolve()), soft_wrap=True)


@app.command()
def generate(
    prompt: Annotated[
        str | None, typer.Argument(help='The prompt; "-" reads standard input.')
    ] = None,
    file: File = None,
    model: Model = None,
    revision: Revision = None,
    dtype: Dtype = None,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens to add.")] = 200,
    temperature: Annotated[
        float, typer.Option(help="0 takes the likeliest token, 1 draws as it is.")
    ] = 0.0,
    top_k: Annotated[
        int | None, typer.Option(help="Draw among the k likeliest.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw among tokens of this much probability.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Least probability relative to the best.")
    ] = None,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1: avoid tokens that were there.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
) -> None:
    """Continue a text, printing it as it is made."""
    from jmamba.report.reading import read_text
    from jmamba.report.stages import stages

    prompt = read_text(prompt, file)
    with stages() as show:
        show("loading the model", 0, 1)
        from jmamba.models.sampling import Sampling
        from jmamba.report.continuation import print_continuation

        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
        language_model, tokenizer, _ = _load(model, revision, dtype)
    speed = print_continuation(
        language_model,
        tokenizer,
        prompt,
        _write,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        seed=seed,
    )
    _write("\n")
    _complain(str(speed))


@app.command()
def info(
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Compare the scan that runs here with its definition."
        ),
    ] = False,
) -> None:
    """Show versions, devices, and which implementation of the scan runs on them."""
    from jmamba.report.machine import describe

    console = Console(highlight=False)
    console.print(describe())
    if check:
        from jmamba.report.check import check_scan, show_checks

        checks = check_scan()
        console.print("", show_checks(checks))
        if not all(one.is_passed for one in checks):
            raise typer.Exit(1)


def _load(model: str | None, revision: str | None, dtype: str | None) -> tuple:
    """Return a model, its tokenizer and its name."""
    if model is None:
        if revision is not None:
            raise ValueError(
                "--revision is for a model on the Hub; name it by --model."
            )
        from jmamba.embedded import load_embedded

        return *load_embedded(dtype=dtype), "embedded byte-level model"
    from jmamba import checkpoints

    tokenizer = checkpoints.load_tokenizer(model, revision=revision)
    return checkpoints.load(model, dtype=dtype, revision=revision), tokenizer, model


def _write(text: str) -> None:
    """Print a piece of text; what would steer a terminal is made visible."""
    from jmamba.report.labels import visible

    if sys.stdout.isatty():
        text = "".join(
            c if c in "\n\t" or c.isprintable() else visible(c) for c in text
        )
    sys.stdout.write(text)
    sys.stdout.flush()


def _complain(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def main() -> None:
    """Run the command line."""
    try:
        app()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            # XLA may still be at work in other threads, which tearing down the
            # interpreter below them crashes.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        raise
