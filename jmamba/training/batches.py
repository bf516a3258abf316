"""Batches of texts with what is to be predicted, and their loss."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jmamba.ops.sharding import keep_places


class TextBatch(NamedTuple):
    """Texts, and the token that follows each of their tokens.

    Attributes:
      tokens: what a model reads.
      targets: what it is to predict after each of them; below 0 where nothing is.
      segment_ids: of packed texts; None for one per row.
    """

    tokens: Int[Array | np.ndarray, "b l"]
    targets: Int[Array | np.ndarray, "b l"]
    segment_ids: Int[Array | np.ndarray, "b l"] | None = None

    @property
    def weight(self) -> Int[Array, ""]:
        """How many targets count, which weighs one part of a batch against others."""
        return jnp.sum(jnp.asarray(self.targets) >= 0, dtype=jnp.int32)


def text_loss(model: Any, batch: TextBatch) -> Float[Array, ""]:
    """Return the mean cross-entropy, in nats, of the targets.

    Args:
      model: a language model.
      batch: spread over a mesh or not.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=8, d_model=4, num_layers=1)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> tokens = jnp.array([[1, 2, 3]])
      >>> loss = text_loss(model, TextBatch(tokens, jnp.array([[2, 3, -1]])))
      >>> two = text_loss(model, TextBatch(tokens[:, :2], tokens[:, 1:]))
      >>> bool(jnp.allclose(loss, two))
      True
    """
    logits = model(batch.tokens, segment_ids=batch.segment_ids).logits

    def run(logits, targets):
        counts = targets >= 0
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits, jnp.where(counts, targets, 0)
        )
        total = jnp.sum(jnp.where(counts, losses, 0))
        return total / jnp.maximum(jnp.sum(counts, dtype=total.dtype), 1)

    return keep_places(run, (logits, batch.targets), ("blv", "bl"), "")
