"""Training of language models."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

from jmamba.layers.stack import Remat
from jmamba.models.architecture import architecture_of
from jmamba.models.language_model import LanguageModel
from jmamba.models.sharding import Sharding
from jmamba.training.batches import TextBatch, text_loss
from jmamba.training.bits_per_byte import bits_per_token
from jmamba.training.classification import mean_cross_entropy
from jmamba.training.config import TrainConfig
from jmamba.training.placed import fit_source
from jmamba.training.reports import StepReport
from jmamba.training.sources import ByteWindows, Source

Trained = TypeVar("Trained", bound=LanguageModel)


def train(
    model: Trained,
    data: np.ndarray | Source,
    config: TrainConfig,
    *,
    sharding: Sharding | None = None,
    directory: str | Path | None = None,
    report: Callable[[StepReport], None] = lambda report: None,
    extend: bool = False,
    held_out: TextBatch | None = None,
    keep: Callable[[Any, float], None] = lambda model, found: None,
) -> Trained:
    """Train a language model on random windows of a byte corpus, or rows of a source.

    Args:
      model: where to start from; it stays as it is.
      data: the bytes to train on, or a source of rows.
      config: settings of the run.
      sharding: a mesh over which the model and its batches are laid; each process reads
        the rows of its own devices. None for one device.
      directory, report, extend: as in `fit`.
      held_out: rows whose bits per token are in the report of every
        `config.evaluate_every`th step; all processes have all of them.
      keep: called with each model that was measured so, and its bits per token.

    Returns:
      The trained model.

    Raises:
      FloatingPointError: the loss or its gradient is no longer finite; says at which
        step.
      ValueError: as in `fit`, the data are shorter than a window or have tokens that
        the model does not know, or the mesh does not divide the model or the batch.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=4, num_layers=1)
      >>> settings = TrainConfig(steps=2, batch=2, length=8, warmup=1)
      >>> text = np.frombuffer(b"a text to learn", np.uint8)
      >>> trained = train(new_model(config, seed=0), text, settings)
      >>> trained.config == config
      True
    """
    if isinstance(data, np.ndarray):
        data = ByteWindows(
            data, batch=config.batch, length=config.length, seed=config.seed
        )
    _check_vocabulary(data, model.config.vocab_size)
    if sharding is not None:
        sharding.check_batch(config.batch, config.length)
    evaluate = None
    if held_out is not None:
        evaluate = partial(
            bits_per_token, batch=held_out, at_once=config.batch, sharding=sharding
        )
    return fit_source(
        model,
        text_loss,
        data,
        config,
        sharding=sharding,
        directory=directory,
        report=report,
        extend=extend,
        evaluate=evaluate,
        keep=keep,
    )


def _check_vocabulary(source: Source, there: int) -> None:
    """Raise unless a model has an embedding of every token."""
    if source.vocab_size > there:
        raise ValueError(
            f"The data have tokens from 0 to {source.vocab_size - 1:,}, and the model "
            f"only {there:,}: give it vocab_size={source.vocab_size}, or tokenize the "
            "texts with the model's own tokenizer."
        )


def next_token_loss(model: LanguageModel, tokens: jax.Array) -> jax.Array:
    """Return the mean cross-entropy, in nats, of each token given those before it."""
    return mean_cross_entropy(model(tokens[:, :-1]).logits, tokens[:, 1:])


def new_model(
    config: Any,
    seed: int,
    *,
    dtype: str = "float32",
    remat: Remat = False,
    sharding: Sharding | None = None,
) -> Any:
    """Return a model with fresh weights, which are float32.

    Args:
      config: of any architecture.
      seed: of the weights.
      dtype: of activations.
      remat: whether training computes blocks again, or a policy; see `LanguageModel`.
      sharding: a mesh over which weights are laid. Each device makes its own parts, and
        none of them, nor a host, ever holds the whole model.

    Raises:
      ValueError: the mesh does not divide the model.
    """

    def make():
        return architecture_of(config).model_class(
            config, dtype=dtype, remat=remat, rngs=nnx.Rngs(seed)
        )

    return make() if sharding is None else sharding.make_model(make)
