"""What a model's layers do to the tokens of a text: the numbers behind the report."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jmamba.dynamics import (
    RegimeReport,
    contraction_map,
    depth_exponents,
    layer_stack,
    map_regimes,
    measure_trajectories,
    report_regimes,
)
from jmamba.figures.labels import Piece, piece_labels, split_pieces, token_labels
from jmamba.files.tokenizer import Tokenizer
from jmamba.models.text_model import TextModel
from jmamba.progress import Progress, ignore, timed
from jmamba.report.choices import encode
from jmamba.report.display import Displayed
from jmamba.report.environment import environment
from jmamba.tracing.trace import trace

STAGES = ("trajectories", "regimes", "contraction", "exponents")


@dataclasses.dataclass(frozen=True, repr=False)
class DynamicsReport(Displayed):
    """How the tokens of one text move through a model; see `measure_dynamics`.

    Attributes:
      model: name of the model.
      text: the text.
      ids: its tokens.
      pieces: the tokens as stretches of text.
      labels: one readable label per token.
      norms: Euclidean norm of each token; row 0 is the embedding, row k + 1 is after
        layer k.
      growth: ln(|h out| / |h in|) of each token in each layer.
      cosine: cosine of the angle by which a layer turns a token.
      expands: whether the mean of C[i].B[j] over j <= i is positive: the layer then
        moves token i along with the tokens it remembers, else against them.
      fast: fraction of channels whose step size is past the softplus's bend.
      log_norms: whether a layer can take two values of a token apart (above zero) or
        brings any two closer (below), see `contraction_map`.
      regimes: what the theory asks of a layer, one number per layer.
      exponents: of small differences over depth, largest first.
      exponents_per_layer: what each layer adds to them.
      settings: what was asked for.
      environment: versions, device and implementation.
      timings: seconds per stage.
    """

    model: str
    text: str
    ids: Int[np.ndarray, "l"]
    pieces: tuple[Piece, ...]
    labels: tuple[str, ...]
    norms: Float[np.ndarray, "t l"]
    growth: Float[np.ndarray, "s l"]
    cosine: Float[np.ndarray, "s l"]
    expands: Bool[np.ndarray, "s l"]
    fast: Float[np.ndarray, "s l"]
    log_norms: Float[np.ndarray, "s l"]
    regimes: RegimeReport
    exponents: Float[np.ndarray, "p"]
    exponents_per_layer: Float[np.ndarray, "s p"]
    settings: dict[str, Any]
    environment: dict[str, Any]
    timings: dict[str, float]

    def __repr__(self) -> str:
        """Return what was measured, without the arrays."""
        layers, length = self.growth.shape
        return f"DynamicsReport of {self.text!r}: {length} tokens, {layers} layers"

    @property
    def piece_labels(self) -> list[str]:
        """One readable label per piece."""
        return piece_labels(self.pieces, self.labels)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays to store, by name."""
        regimes = {f"regime_{k}": v for k, v in self.regimes.columns().items()}
        return {
            "token_ids": self.ids,
            "residual_norms": self.norms,
            "growth": self.growth,
            "cosine": self.cosine,
            "expands": self.expands,
            "fast": self.fast,
            "log_norms": self.log_norms,
            "depth_exponents": self.exponents,
            "depth_exponents_per_layer": self.exponents_per_layer,
            **regimes,
        }


def measure_dynamics(
    model: TextModel,
    tokenizer: Tokenizer,
    text: str,
    *,
    exponents: int = 8,
    name: str = "model",
    progress: Progress = ignore,
) -> DynamicsReport:
    """Measure how the tokens of a text move from layer to layer.

    Args:
      model: a language model, or a classifier of texts.
      tokenizer: its tokenizer.
      text: the text.
      exponents: how many exponents over depth to compute.
      name: name of the model in the report.
      progress: told how far each of `STAGES` is.

    Raises:
      ValueError: the text is empty or has tokens the model does not know, a layer is no
        recurrence, or there are not so many exponents.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> from jmamba.checkpoints import ByteTokenizer
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> found = measure_dynamics(model, ByteTokenizer(), "hello", exponents=2)
      >>> found.norms.shape, found.growth.shape, found.exponents.shape
      ((3, 5), (2, 5), (2,))

    References:
      Vo et al., "Demystifying the Token Dynamics of Deep Selective State Space
      Models", arXiv 2410.03292, sections 4 and 5.
    """
    model.check_recurrent("The report on dynamics")
    ids = encode(tokenizer, text)
    tokens = jnp.asarray(ids, jnp.int32)[None]
    timings: dict[str, float] = {}

    inside = trace(model, tokens)
    with timed(STAGES[0], timings, progress):
        moved = jax.block_until_ready(measure_trajectories(inside))
    with timed(STAGES[1], timings, progress):
        regimes = report_regimes(model, tokens)
        labels = jax.block_until_ready(jax.lax.map(map_regimes, inside.recurrence))
    with timed(STAGES[2], timings, progress):
        stream, steps = inside.residual_in[:, 0], min(32, model.config.d_model)
        contraction = contraction_map(model, stream, steps=steps)
        contraction = jax.block_until_ready(contraction)
    with timed(STAGES[3], timings, progress):
        growing = depth_exponents(layer_stack(model), stream[0], exponents)
        growing = jax.block_until_ready(growing)
    pieces = split_pieces(text, tokenizer.offsets(text))
    return DynamicsReport(
        model=name,
        text=text,
        ids=np.asarray(ids, np.int32),
        pieces=tuple(pieces),
        labels=tuple(token_labels(pieces, tokenizer.pieces(ids))),
        norms=np.asarray(moved.norms[:, 0], np.float32),
        growth=np.asarray(moved.growth[:, 0], np.float32),
        cosine=np.asarray(moved.cosine[:, 0], np.float32),
        expands=np.asarray(labels.expands[:, 0]),
        fast=np.asarray(jnp.mean(labels.fast[:, 0], axis=-1), np.float32),
        log_norms=np.asarray(contraction.log_norms, np.float32),
        regimes=regimes,
        exponents=np.asarray(growing.exponents, np.float32),
        exponents_per_layer=np.asarray(growing.per_layer, np.float32),
        settings={"exponents": exponents, "dtype": jnp.dtype(model.dtype).name},
        environment=environment(),
        timings=timings,
    )
