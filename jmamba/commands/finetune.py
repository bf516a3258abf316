"""The command `jmamba finetune`: make a classifier of texts of a language model."""

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
from jmamba.files.folders import check_destination
from jmamba.files.untrusted import as_path
from jmamba.training.classification import Labelled, classification_loss, is_right
from jmamba.training.config import TrainConfig
from jmamba.training.labelled_texts import (
    encode_labelled,
    hold_out,
    read_labelled_texts,
)
from jmamba.training.loop import fit

BYTE_PAD = 0
"""What fills up texts of models that have no padding: of bytes, one no text has."""


def finetune_command(
    data: Annotated[
        Path,
        typer.Argument(
            help="Lines of a class, a tab and a text.", parser=as_path, metavar="DATA"
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Folder to write.", parser=as_path, metavar="PATH"),
    ],
    model: Model = None,
    revision: Revision = None,
    dtype: Dtype = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 300,
    batch: Annotated[int, typer.Option(help="Texts per step.")] = 16,
    length: Annotated[int, typer.Option(help="Most tokens of a text.", min=1)] = 128,
    learning_rate: Annotated[float, typer.Option(help="Peak of the cosine.")] = 5e-4,
    seed: Annotated[
        int, typer.Option(help="Of the head and the order.", min=0, max=LARGEST_SEED)
    ] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model that is there.")
    ] = False,
) -> None:
    """Train a language model and a new head to tell the classes of texts.

    A tenth of the texts is not trained on and measured. The folder is loaded by
    `MambaClassifier.from_pretrained`, or `Mamba2Classifier`'s.
    """
    config = TrainConfig(
        *(steps, batch, length, learning_rate), warmup=steps // 10, seed=seed
    )
    check_destination(out, overwrite=overwrite)
    given = read_labelled_texts(data)
    with stages() as show:
        show("loading the model", 0, 1)
        from jmamba.models.classifier_architecture import make_classifier

        language_model, tokenizer, name = load_text_model(model, revision, dtype)
        pad = language_model.config.pad_token_id
        pad = BYTE_PAD if pad is None else pad
        start = make_classifier(
            language_model, given.class_names, pad_token_id=pad, key=seed
        )
        encoded = encode_labelled(tokenizer, given, length=length, pad=pad)
        train, test = hold_out(encoded)

        def draw(step):
            rng = np.random.default_rng((seed, step))
            part = rng.integers(0, len(train.labels), batch)
            return Labelled(train.inputs[part], train.labels[part])

        trained = fit(
            start,
            classification_loss,
            draw,
            config,
            report=lambda said: show("training", said.step, steps),
        )
        show("measuring", 0, 1)
        right = is_right(trained, test)
        source = "bytes" if model is None else name
        trained.save_pretrained(out, tokenizer=source, overwrite=overwrite)
    most = np.bincount(test.labels).max() / len(test.labels)
    typer.echo(
        f"{100 * right.mean():.1f} % of {len(right):,} texts that were not trained on "
        f"are right; always saying the commonest class, {100 * most:.1f} % are. The "
        f"classifier is in {out}."
    )
