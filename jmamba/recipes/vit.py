"""A plain Vision Transformer to compare with, and its explanations."""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.types import Images


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Describe a Vision Transformer with its class token first.

    Attributes:
      d_model: width of the residual stream.
      num_layers: number of blocks.
      num_heads: attention heads.
      mlp_ratio: width of the hidden layer over d_model.
      num_classes: classes that the head tells apart.
      image_size: side of the images.
      patch_size: side of a patch.
    """

    d_model: int
    num_layers: int
    num_heads: int
    mlp_ratio: int
    num_classes: int
    image_size: int
    patch_size: int

    @property
    def grid(self) -> int:
        """Patches in a row."""
        return self.image_size // self.patch_size


class ViTBlock(nnx.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        m, hidden = config.d_model, config.d_model * config.mlp_ratio
        self.num_heads = config.num_heads
        self.norm_1, self.norm_2 = (
            nnx.LayerNorm(m, rngs=rngs),
            nnx.LayerNorm(m, rngs=rngs),
        )
        self.qkv, self.proj = (
            nnx.Linear(m, 3 * m, rngs=rngs),
            nnx.Linear(m, m, rngs=rngs),
        )
        self.up, self.down = (
            nnx.Linear(m, hidden, rngs=rngs),
            nnx.Linear(hidden, m, rngs=rngs),
        )

    def __call__(
        self,
        x: Float[Array, "b l m"],
        shift: Float[Array, "b h l l"] | None = None,
        *,
        causal: bool = False,
    ):
        """Return the block's output and its attention (b, h, l, l).

        Args:
          x: the residual stream.
          shift: added to the attention, to differentiate there.
          causal: whether tokens attend to none after them.
        """
        batch, length, _ = x.shape
        qkv = self.qkv(self.norm_1(x)).reshape(batch, length, 3, self.num_heads, -1)
        q, k, v = (qkv[:, :, i] for i in range(3))
        scores = jnp.einsum("bihc,bjhc->bhij", q, k) / jnp.sqrt(q.shape[-1]).astype(
            q.dtype
        )
        seen = jnp.tri(length, dtype=bool)[None, None] if causal else None
        attention = jax.nn.softmax(scores, axis=-1, where=seen)
        attention = attention if shift is None else attention + shift
        mixed = jnp.einsum("bhij,bjhc->bihc", attention, v).reshape(x.shape)
        x = x + self.proj(mixed)
        return x + self.down(jax.nn.gelu(self.up(self.norm_2(x)))), attention


class ViT(nnx.Module):
    """Vision Transformer, a classifier of images.

    Args:
      config: its sizes.
      rngs: source of the initial weights.

    Examples:
      >>> config = ViTConfig(16, 2, 2, 2, num_classes=5, image_size=32, patch_size=8)
      >>> ViT(config, rngs=nnx.Rngs(0))(jnp.ones((1, 32, 32, 3))).shape
      (1, 5)

    References:
      Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929.
    """

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        m, p = config.d_model, config.patch_size
        self.config = config
        small = nnx.initializers.truncated_normal(0.02)
        self.patch_embed = nnx.Conv(3, m, (p, p), strides=p, padding="VALID", rngs=rngs)
        self.class_token = nnx.Param(small(rngs.params(), (m,)))
        self.position = nnx.Param(small(rngs.params(), (config.grid**2 + 1, m)))
        self.blocks = nnx.List(
            [ViTBlock(config, rngs=rngs) for _ in range(config.num_layers)]
        )
        self.norm_f = nnx.LayerNorm(m, rngs=rngs)
        self.head = nnx.Linear(m, config.num_classes, kernel_init=small, rngs=rngs)

    def embed(self, images: Images) -> Float[Array, "b l m"]:
        """Return the residual stream before the first block."""
        x = self.patch_embed(images)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = jnp.broadcast_to(self.class_token[...], (x.shape[0], 1, x.shape[-1]))
        return jnp.concatenate([token, x], axis=1) + self.position[...][None]

    def run(self, x: Float[Array, "b l m"], shifts=None):
        """Return the logits and the attention of all blocks, (b, h, l, l) each.

        Args:
          x: the residual stream before the first block.
          shifts: added to the attention of each block, to differentiate there.
        """
        found = []
        for i, block in enumerate(self.blocks):
            x, attention = block(x, None if shifts is None else shifts[i])
            found.append(attention)
        return self.head(self.norm_f(x)[:, 0]), found

    def __call__(self, images: Images) -> Float[Array, "b v"]:
        """Return the logits of all classes.

        Args:
          images: normalised colours, channels last.
        """
        return self.run(self.embed(images))[0]


class _Seen(NamedTuple):
    attention: Float[Array, "s b h l l"]
    gradient: Float[Array, "s b h l l"]


def vit_attention(model: ViT, images: Images, target=None) -> Float[Array, "b l"]:
    """Return what the class token attends to, mean over heads and layers."""
    seen = _look(*nnx.split(model), images, target)
    return jnp.mean(seen.attention[:, :, :, 0], axis=(0, 2))


def vit_rollout(model: ViT, images: Images, target=None) -> Float[Array, "b l"]:
    """Return the class token's row of the product of all layers.

        prod_s (I + mean_h A[s, h]), each row divided by its sum

    References:
      Abnar & Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020.
    """
    seen = _look(*nnx.split(model), images, target)
    return _roll_out(jnp.mean(seen.attention, axis=2), row_normalise=True)


def transformer_attribution(
    model: ViT, images: Images, target: Int[Array, "b"] | None = None
) -> Float[Array, "b l"]:
    """Return the class token's row of the product of gradient-weighted layers.

        prod_s (I + mean_h (d logit / d A[s, h] * A[s, h])^+)

    the gradient-weighted rollout of Chefer, Gur & Wolf, with attention itself in place
    of its relevance by LRP, as in their later generic form.

    Args:
      model: the model.
      images: what to explain.
      target: classes; None for the predicted ones.

    References:
      Chefer, Gur & Wolf, CVPR 2021, section 3.2, equations 13 and 14, and "Generic
      Attention-model Explainability", ICCV 2021, equations 5 and 6.
    """
    seen = _look(*nnx.split(model), images, target)
    weighed = jnp.mean(jnp.maximum(seen.attention * seen.gradient, 0), axis=2)
    return _roll_out(weighed, row_normalise=False)


VIT_METHODS = {
    "raw_attention": vit_attention,
    "attention_rollout": vit_rollout,
    "transformer_attribution": transformer_attribution,
}
"""Name -> explanation of a ViT: (model, images, target) to (b, l), class first."""


@partial(jax.jit, static_argnames="graphdef")
def _look(graphdef, state, images, target) -> _Seen:
    """Return the attention of all layers and the gradient of a logit there."""
    model = nnx.merge(graphdef, state)
    c = model.config
    length = c.grid**2 + 1
    shape = (c.num_layers, images.shape[0], c.num_heads, length, length)

    def total(shifts):
        logits, attention = model.run(model.embed(images), shifts)
        chosen = jnp.argmax(logits, axis=-1) if target is None else target
        picked = jnp.take_along_axis(logits, chosen[:, None], axis=1)
        return jnp.sum(picked), jnp.stack(attention)

    gradient, attention = jax.grad(total, has_aux=True)(jnp.zeros(shape))
    return _Seen(attention, gradient)


def _roll_out(layers: Float[Array, "s b l l"], *, row_normalise: bool):
    """Return the first row of T[last] ... T[first], T = I + layer."""
    length = layers.shape[-1]
    T = layers + jnp.eye(length)[None, None]
    if row_normalise:
        T = T / jnp.sum(T, axis=-1, keepdims=True)
    row = jnp.broadcast_to(jnp.eye(length)[:1], layers.shape[1:3])
    for s in reversed(range(len(T))):
        row = jnp.einsum("bi,bij->bj", row, T[s], precision="highest")
    return row
