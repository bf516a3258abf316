"""One-layer models that read a number, or which number, off every bit of a string."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.attention import Factors, hidden_attention, without_decay
from jmamba.layers import Block, MixerSizes, Precision, Recurrence, RMSNorm
from jmamba.layers.mamba import MambaMixer
from jmamba.recipes.vit import ViTBlock, ViTConfig
from jmamba.training.classification import Labelled

KINDS = ("Mamba", "linear attention", "softmax attention")
"""The second is the first with A = 0, the third a block of a Transformer with its MLP.
None has positions; the first two have none by their convolution either, whose window
is 1."""


class Counter(nnx.Module):
    """A layer between an embedding of bits and a linear map to numbers.

        y = w . (x + layer(norm(x))) + b,  x = embedding(bit)

    No norm comes before the map, so that numbers can be larger than in training.

    Args:
      kind: one of `KINDS`.
      d_model: width of the residual stream.
      d_state: states per channel, of the first two kinds.
      classes: None for one number, which is the count; else logits of the counts from
        0 on, so many of them.
      rngs: source of the initial weights.

    Examples:
      >>> model = Counter("Mamba", 8, 2, rngs=nnx.Rngs(0))
      >>> model(jnp.array([[0, 1, 1]])).shape
      (1, 3)
    """

    def __init__(
        self,
        kind: str,
        d_model: int,
        d_state: int,
        classes: int | None = None,
        *,
        rngs: nnx.Rngs,
    ):
        self.kind, self.classes = kind, classes
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (2, d_model)))
        if kind == "softmax attention":
            sizes = ViTConfig(d_model, 1, 2, 2, 1, 1, 1)
            self.layer: Any = ViTBlock(sizes, rngs=rngs)
        else:
            sizes = MixerSizes(d_model=d_model, num_layers=1, d_state=d_state, d_conv=1)
            single = Precision(jnp.dtype("float32"), jnp.dtype("float32"))
            self.layer = Block(
                RMSNorm(d_model, eps=1e-5, precision=single),
                MambaMixer(sizes, precision=single, rngs=rngs),
            )
        self.head = nnx.Linear(d_model, classes or 1, rngs=rngs)

    def __call__(self, bits: Int[Array, "b l"]) -> Float[Array, "b l *classes"]:
        """Return the number at each bit, or the logits of numbers."""
        x = jnp.take(self.embedding[...], bits, axis=0)
        if self.kind == "softmax attention":
            x, _ = self.layer(x, causal=True)
        else:
            x = x + self.layer.mixer.mix(self.recurrence(x))[0]
        return self.head(x) if self.classes else self.head(x)[..., 0]

    def recurrence(self, x: Float[Array, "b l m"]) -> Recurrence:
        """Return the recurrence, without decay for linear attention."""
        recurrence = self.layer.project(x).recurrence
        return recurrence if self.kind == "Mamba" else without_decay(recurrence)

    def attend(self, bits: Int[Array, "b l"]) -> Float[Array, "b l l"]:
        """Return what each bit's number owes to each token before it.

        Of softmax attention this is the mean of its heads. Of the others the number is
        a sum over tokens (with classes, of the logit of 0), of which entry (i, j) is

            sum_d (W_out w)[d] silu(z[i, d]) alpha[d][i, j] u[j, d]

        plus what does not go through the recurrence.
        """
        x = jnp.take(self.embedding[...], bits, axis=0)
        if self.kind == "softmax attention":
            return jnp.mean(self.layer(x, causal=True)[1], axis=1)
        recurrence = self.recurrence(x)
        assert recurrence.z is not None
        gated = Factors(recurrence, recurrence.u, gate=jax.nn.silu(recurrence.z))
        alpha = hidden_attention(gated, fold=("gate",))
        out = self.layer.mixer.out_proj.kernel[...] @ self.head.kernel[...][:, 0]
        return jnp.einsum("bdij,bjd,d->bij", alpha, recurrence.u, out)


def error_loss(model: Counter, batch: Labelled) -> Float[Array, ""]:
    """Return the mean Huber loss of the numbers: half squares up to 1, then linear."""
    return jnp.mean(optax.huber_loss(model(batch.inputs), batch.labels))


def hit_loss(model: Counter, batch: Labelled) -> Float[Array, ""]:
    """Return the mean cross-entropy of the right counts.

    Its least value has the likeliest count in front wherever it can be told, which is
    what most hits ask for.
    """
    labels = batch.labels.astype(jnp.int32)
    return jnp.mean(
        optax.softmax_cross_entropy_with_integer_labels(model(batch.inputs), labels)
    )


LOSSES = {"errors": error_loss, "hits": hit_loss}
"""Name -> what models learn: to be near the count, or to hit it."""


def count(
    model: Counter, bits: Int[np.ndarray, "b l"], *, batch: int = 256
) -> Float[np.ndarray, "b l"]:
    """Return the numbers of many strings, some at a time; of logits the likeliest."""
    graphdef, state = nnx.split(model)
    parts = [
        np.asarray(_count(graphdef, state, bits[start : start + batch]))
        for start in range(0, len(bits), batch)
    ]
    found = np.concatenate(parts)
    return found.argmax(axis=-1).astype(float) if model.classes else found


@partial(jax.jit, static_argnames="graphdef")
def _count(graphdef, state, bits):
    return nnx.merge(graphdef, state)(bits)
