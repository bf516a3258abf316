"""The command `jmamba generate`: continue a text."""

import sys
from typing import Annotated

import typer

from jmamba.commands.continuation import print_continuation
from jmamba.commands.options import (
    LARGEST_SEED,
    MOST,
    Dtype,
    File,
    MatrixWeights,
    Model,
    Revision,
    load_text_model,
)
from jmamba.commands.reading import read_text
from jmamba.commands.stages import stages
from jmamba.figures.labels import visible
from jmamba.generation.lookup import Lookup
from jmamba.generation.sampling import Sampling


def generate_command(
    prompt: Annotated[
        str | None, typer.Argument(help='The prompt; "-" reads standard input.')
    ] = None,
    file: File = None,
    model: Model = None,
    revision: Revision = None,
    dtype: Dtype = None,
    weights: MatrixWeights = None,
    max_new_tokens: Annotated[
        int, typer.Option(help="Most tokens to add.", min=1, max=MOST)
    ] = 200,
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
    stop: Annotated[
        list[str] | None,
        typer.Option(help="End at this text, which is not shown; may be repeated."),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of the draws.", min=0, max=LARGEST_SEED)
    ] = 0,
    lookup: Annotated[
        int,
        typer.Option(
            help="Guess so many tokens at once from the text before them, and keep "
            "those that are right: faster where texts repeat themselves.",
            min=0,
            max=64,
        ),
    ] = 0,
) -> None:
    """Continue a text, printing it as it is made."""
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    prompt = read_text(prompt, file)
    with stages() as show:
        show("loading the model", 0, 1)
        language_model, tokenizer, _ = load_text_model(
            model, revision, dtype, weights=weights
        )
    speed = print_continuation(
        language_model,
        tokenizer,
        prompt,
        _write,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        seed=seed,
        stop_strings=stop or (),
        lookup=Lookup(num_tokens=lookup) if lookup else None,
    )
    _write("\n")
    sys.stderr.write(f"{speed}\n")


def _write(text: str) -> None:
    """Print a piece of text; what would steer a terminal is made visible."""
    if sys.stdout.isatty():
        text = "".join(
            c if c in "\n\t" or c.isprintable() else visible(c) for c in text
        )
    sys.stdout.write(text)
    sys.stdout.flush()
