"""A small byte-level Transformer, to set its attention beside that of a Mamba."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.types import Tokens

BYTES = 256


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Describe a causal Transformer that reads bytes.

    Attributes:
      d_model: width of the residual stream.
      num_layers: number of blocks.
      num_heads: attention heads.
    """

    d_model: int
    num_layers: int
    num_heads: int


def rotate(x: Float[Array, "b h l c"]) -> Float[Array, "b h l c"]:
    """Turn pairs of features by angles that grow with the position.

    Products of turned queries and keys depend on their distance only.

    Args:
      x: queries or keys of all heads, of even width.

    References:
      Su et al., "RoFormer", arXiv 2104.09864, section 3.2.
    """
    length, half = x.shape[2], x.shape[3] // 2
    speed = 10_000.0 ** -(jnp.arange(half, dtype=x.dtype) / half)
    angle = jnp.arange(length, dtype=x.dtype)[:, None] * speed[None]
    cos, sin = jnp.cos(angle)[None, None], jnp.sin(angle)[None, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


class CausalBlock(nnx.Module):
    """Pre-norm attention to earlier tokens, and an MLP."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        m, self.num_heads = config.d_model, config.num_heads
        self.norm_1, self.norm_2 = (nnx.LayerNorm(m, rngs=rngs) for _ in range(2))
        self.qkv = nnx.Linear(m, 3 * m, use_bias=False, rngs=rngs)
        self.proj = nnx.Linear(m, m, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(m, 4 * m, rngs=rngs)
        self.down = nnx.Linear(4 * m, m, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b l m"]
    ) -> tuple[Float[Array, "b l m"], Float[Array, "b h l l"]]:
        """Return the block's output and its attention."""
        batch, length, width = x.shape
        qkv = self.qkv(self.norm_1(x)).reshape(batch, length, 3, self.num_heads, -1)
        q, k, v = jnp.moveaxis(qkv, (2, 3), (0, 2))  # b l 3 h c -> 3 b h l c
        size = jnp.sqrt(jnp.asarray(q.shape[-1], x.dtype))
        scores = jnp.einsum("bhic,bhjc->bhij", rotate(q), rotate(k)) / size
        seen = jnp.tri(length, dtype=bool)[None, None]
        attention = jax.nn.softmax(scores, axis=-1, where=seen)
        mixed = jnp.einsum("bhij,bhjc->bihc", attention, v)
        x = x + self.proj(mixed.reshape(batch, length, width))
        return x + self.down(jax.nn.gelu(self.up(self.norm_2(x)))), attention


class ByteTransformer(nnx.Module):
    """A causal Transformer language model with rotary positions.

    Args:
      config: its sizes.
      rngs: source of the initial weights.

    Examples:
      >>> model = ByteTransformer(TransformerConfig(16, 2, 2), rngs=nnx.Rngs(0))
      >>> logits, attention = model(jnp.array([list(b"hello")]))
      >>> logits.shape, attention.shape
      ((1, 5, 256), (2, 1, 2, 5, 5))

    References:
      Vaswani et al., arXiv 1706.03762, with pre-norm blocks and `rotate`.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        m, self.config = config.d_model, config
        small = nnx.initializers.truncated_normal(0.02)
        self.embedding = nnx.Param(small(rngs.params(), (BYTES, m)))
        self.blocks = nnx.List(
            [CausalBlock(config, rngs=rngs) for _ in range(config.num_layers)]
        )
        self.norm_f = nnx.LayerNorm(m, rngs=rngs)

    def __call__(
        self, tokens: Tokens
    ) -> tuple[Float[Array, "b l v"], Float[Array, "s b h l l"]]:
        """Return logits of the next byte, and the attention of all blocks.

        Args:
          tokens: bytes.
        """
        x = jnp.take(self.embedding[...], tokens, axis=0)
        found = []
        for block in self.blocks:
            x, attention = block(x)
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


def measure_bits(model: ByteTransformer, windows: Int[np.ndarray, "b w"]) -> float:
    """Return the mean loss on windows in bits; first bytes have little before them."""
    return float(_loss(*nnx.split(model), windows) / np.log(2))


@partial(jax.jit, static_argnames="graphdef")
def _loss(graphdef, state, windows):
    return byte_loss(nnx.merge(graphdef, state), windows)
