"""The command `jmamba tune`: train a tuned lens on a text."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from jmamba.commands.options import (
    LARGEST_SEED,
    Dtype,
    Model,
    Revision,
    load_text_model,
)
from jmamba.commands.stages import stages
from jmamba.files.untrusted import as_path
from jmamba.training.data import check_windows, read_bytes

COMPARED = 0.1
"""Part of the text, its end, that lenses are compared on."""

WINDOWS = 16
"""Windows of that part which are read, at most."""


def tune_command(
    data: Annotated[
        Path,
        typer.Argument(
            help="Text file, UTF-8, plain or .gz.", parser=as_path, metavar="DATA"
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="File to write.", parser=as_path, metavar="PATH"),
    ] = Path("lens.safetensors"),
    model: Model = None,
    revision: Revision = None,
    dtype: Dtype = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 250,
    batch: Annotated[int, typer.Option(help="Windows per step.")] = 8,
    length: Annotated[int, typer.Option(help="Tokens per window.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Peak of the cosine.")] = 5e-3,
    seed: Annotated[
        int, typer.Option(help="Of the windows.", min=0, max=LARGEST_SEED)
    ] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = False,
) -> None:
    """Train a tuned lens for `jmamba lens --tuned`, and say what it is better by.

    One affine map per layer learns to say what the whole model says. The text's last
    tenth is not trained on: on it both lenses are compared.
    """
    from jmamba.training.config import TrainConfig

    config = TrainConfig(
        *(steps, batch, length, learning_rate),
        warmup=min(20, steps // 2),
        weight_decay=0.0,
        seed=seed,
    )
    if out.exists() and not overwrite:
        raise ValueError(
            f"{out} is there already; name another file with --out, or replace it with "
            "--overwrite."
        )
    text = read_bytes(data)
    with stages() as show:
        show("loading the model", 0, 1)
        from jmamba.interventions.lens_training import train_lens

        language_model, tokenizer, _ = load_text_model(model, revision, dtype)
        tokens = np.asarray(tokenizer.encode(_decode(data, text)), np.int32)
        stop = int(len(tokens) * (1 - COMPARED))
        check_windows(min(stop, len(tokens) - stop), length)
        lens = train_lens(
            language_model,
            tokens[:stop],
            config,
            report=lambda said: show("training", said.step, steps),
        )
        lens.save(out)
        show("comparing on the text's end", 0, 1)
        rows = tokens[stop:][: WINDOWS * length]
        rows = rows[: len(rows) // length * length].reshape(-1, length)
        before, after = (_divergence(language_model, rows, one) for one in (None, lens))
    typer.echo("bits from the model, on text that was not trained on:")
    for layer, (one, two) in enumerate(zip(before, after, strict=True)):
        typer.echo(f"  layer {layer}: logit lens {one:.3f}, tuned lens {two:.3f}")
    typer.echo(f"Try: jmamba lens 'some text' --tuned {out}")


def _decode(path: Path, data: np.ndarray) -> str:
    try:
        return data.tobytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text at byte {error.start}; give a file of text."
        ) from error


def _divergence(model, rows, lens) -> list[float]:
    """Return each layer's distance from the model, mean over windows and tokens."""
    from jmamba.interventions.lens import read_lens

    found = read_lens(model, rows, tuned=lens, top=1).divergence
    return np.asarray(found, np.float64).mean(axis=(1, 2)).tolist()
