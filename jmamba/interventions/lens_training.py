"""Training a tuned lens to say what the whole model says."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Integer

from jmamba.interventions.lens import read_layer
from jmamba.interventions.tuned_lens import TunedLens
from jmamba.models.language_model import LanguageModel
from jmamba.training.config import TrainConfig
from jmamba.training.data import sample_windows
from jmamba.training.loop import fit
from jmamba.training.reports import StepReport

LENS_TRAINING = TrainConfig(
    steps=250, batch=8, length=128, learning_rate=5e-3, warmup=20, weight_decay=0.0
)
"""What `train_lens` does if nothing else is said."""


class LensBatch(NamedTuple):
    """Texts, and the parameters of the model that reads them."""

    tokens: Int[Array, "b l"]
    state: Any


class LensLoss(NamedTuple):
    """How far a lens is from what the model says, as a loss of `fit`.

        mean over layers and tokens of KL(softmax(model) || softmax(lens[layer]))

    in nats, over all layers but the last.

    Attributes:
      graphdef: the model's structure.
    """

    graphdef: Any

    def __call__(self, lens: TunedLens, batch: LensBatch) -> Float[Array, ""]:
        """Return the loss."""
        model = nnx.merge(self.graphdef, batch.state)
        passed = model.run_layers(
            model.embed(batch.tokens), read=lambda block, x, out: out.x
        )
        count = model.config.num_layers
        whole = jax.nn.log_softmax(read_layer(model, None, passed.x, count - 1))

        @jax.checkpoint  # the logits of one layer are held at a time
        def of_layer(own):
            scores = jax.nn.log_softmax(read_layer(model, lens, *own))
            return jnp.mean(jnp.sum(jnp.exp(whole) * (whole - scores), axis=-1))

        return jnp.mean(
            jax.lax.map(of_layer, (passed.found[:-1], jnp.arange(count - 1)))
        )


def train_lens(
    model: LanguageModel,
    tokens: Integer[np.ndarray, "n"],
    config: TrainConfig = LENS_TRAINING,
    *,
    directory: str | Path | None = None,
    report: Callable[[StepReport], None] = lambda report: None,
) -> TunedLens:
    """Train a tuned lens on windows of a text, to the model's own predictions.

    The model stays as it is, and no label is asked for.

    Args:
      model: whose layers are to be read.
      tokens: of a text, one after the other.
      config: of the run; its weight decay draws a translator to the logit lens.
      directory, report: as in `training.loop.fit`.

    Raises:
      FloatingPointError: the loss is no longer finite.
      ValueError: the model has one layer, a token is not the model's, or the text is
        shorter than a window.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=8, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> text = np.frombuffer(b"the cat sat on the mat. " * 8, np.uint8)
      >>> short = TrainConfig(steps=2, batch=2, length=16, warmup=1)
      >>> train_lens(model, text, short).kernel.shape
      (1, 8, 8)

    References:
      Belrose et al., arXiv 2303.08112, section 3.1, equations 9 and 10.
    """
    lens = TunedLens(model.config.num_layers, model.config.d_model)
    model.check_inputs(tokens[None])
    graphdef, state = nnx.split(model)

    def draw(step):
        windows = sample_windows(
            tokens, batch=config.batch, length=config.length, seed=config.seed,
            step=step,
        )  # fmt: skip
        return LensBatch(jnp.asarray(windows[:, :-1]), state)

    data = hashlib.sha256(np.ascontiguousarray(tokens).data).hexdigest()[:16]
    return fit(
        lens,
        LensLoss(graphdef),
        draw,
        config,
        directory=directory,
        report=report,
        settings={"data": data},
    )
