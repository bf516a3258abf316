"""A small byte-level Transformer, to set its attention beside that of a Mamba."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.recipes.vit import ViTBlock, ViTConfig
from jmamba.types import Tokens

BYTES = 256


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Describe a causal Transformer that reads bytes.

    Attributes:
      d_model: width of the residual stream.
      num_layers: number of blocks.
      num_heads: attention heads.
      length: bytes that it reads at most.
    """

    d_model: int
    num_layers: int
    num_heads: int
    length: int


class ByteTransformer(nnx.Module):
    """A causal Transformer language model with learned positions.

    Args:
      config: its sizes.
      rngs: source of the initial weights.

    Examples:
      >>> model = ByteTransformer(TransformerConfig(16, 2, 2, 8), rngs=nnx.Rngs(0))
      >>> logits, attention = model(jnp.array([list(b"hello")]))
      >>> logits.shape, attention.shape
      ((1, 5, 256), (2, 1, 2, 5, 5))

    References:
      Radford et al., "Language Models are Unsupervised Multitask Learners", 2019,
      section 2.3: pre-norm blocks behind learned positions.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        m, self.config = config.d_model, config
        small = nnx.initializers.truncated_normal(0.02)
        self.embedding = nnx.Param(small(rngs.params(), (BYTES, m)))
        self.position = nnx.Param(small(rngs.params(), (config.length, m)))
        block = ViTConfig(m, config.num_layers, config.num_heads, 4, 1, 1, 1)
        self.blocks = nnx.List(
            [ViTBlock(block, rngs=rngs) for _ in range(config.num_layers)]
        )
        self.norm_f = nnx.LayerNorm(m, rngs=rngs)

    def __call__(
        self, tokens: Tokens
    ) -> tuple[Float[Array, "b l v"], Float[Array, "s b h l l"]]:
        """Return logits of the next byte, and the attention of all blocks.

        Args:
          tokens: bytes.

        Raises:
          ValueError: there are more bytes than positions.
        """
        length = tokens.shape[1]
        if length > self.config.length:
            raise ValueError(
                f"{length} bytes, but this Transformer has {self.config.length} "
                "positions; give fewer bytes."
            )
        x = jnp.take(self.embedding[...], tokens, axis=0)
        x = x + self.position[...][None, :length]
        found = []
        for block in self.blocks:
            x, attention = block(x, causal=True)
            found.append(attention)
        return self.norm_f(x) @ self.embedding[...].T, jnp.stack(found)


def byte_loss(model: ByteTransformer, tokens: Tokens) -> Float[Array, ""]:
    """Return the mean cross-entropy, in nats, of each byte given those before it."""
    logits, _ = model(tokens[:, :-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    return jnp.mean(losses)


def look(model: ByteTransformer, tokens: Tokens) -> Float[Array, "s b h l l"]:
    """Return the attention of all layers and heads."""
    return _look(*nnx.split(model), tokens)


@partial(jax.jit, static_argnames="graphdef")
def _look(graphdef, state, tokens):
    return nnx.merge(graphdef, state)(tokens)[1]


def bits_per_byte(model: ByteTransformer, windows: Int[np.ndarray, "b w"]) -> float:
    """Return the mean loss on windows in bits; first bytes have little before them."""
    return float(_loss(*nnx.split(model), windows) / np.log(2))


@partial(jax.jit, static_argnames="graphdef")
def _loss(graphdef, state, windows):
    return byte_loss(nnx.merge(graphdef, state), windows)
