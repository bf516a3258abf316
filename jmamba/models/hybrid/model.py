"""Language models of several kinds of layers."""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.layers.attention import SelfAttention
from jmamba.layers.block import Block
from jmamba.layers.experts import ExpertLayer
from jmamba.layers.feed_forward import FeedForward
from jmamba.layers.mamba2 import Mamba2Mixer
from jmamba.layers.mixed import MixedStack
from jmamba.layers.mixer import Mixer
from jmamba.layers.norm import NoNorm, Precision
from jmamba.layers.runs import Run
from jmamba.models.hybrid.config import ATTENTION, EXPERTS, mixer_kind
from jmamba.models.language_model import LanguageModel


class HybridLM(LanguageModel):
    """A language model whose blocks mix tokens in several ways.

    Its arguments are `LanguageModel`'s. Runs of equal layers are stacked, each under a
    name of its own, and compile once each; what they remember lies side by side.
    """

    config: Any
    is_fused = False
    """Whether gate and up of feed-forward layers are one map."""

    @classmethod
    def make_layers(
        cls, config: Any, precision: Precision, rngs: nnx.Rngs
    ) -> MixedStack:
        """Return the stacked blocks."""
        make = partial(cls.make_block, config, precision)
        return MixedStack(make, config.layer_kinds, rngs)

    @classmethod
    def make_block(
        cls, config: Any, precision: Precision, kind: str, rngs: nnx.Rngs
    ) -> Block:
        """Return one block.

        Args:
          config: of the model.
          precision: its dtypes.
          kind: of the layer.
          rngs: source of the initial weights.
        """
        norm = partial(cls.make_norm, config, precision)
        mixer = cls.make_mixer(config, precision, rngs, mixer_kind(kind))
        make = cls.make_experts if kind.endswith(EXPERTS) else cls.make_feed_forward
        return Block(
            norm(),
            mixer,
            feed_forward=make(config, norm, precision, rngs),
            scale=config.residual_multiplier,
        )

    @classmethod
    def make_feed_forward(
        cls,
        config: Any,
        norm: Any,
        precision: Precision,
        rngs: nnx.Rngs,
        width: int = 0,
    ) -> FeedForward | None:
        """Return the feed-forward layer of one block; None if it has none.

        Args:
          config: of the model.
          norm: makes what is in front of it.
          precision: its dtypes.
          rngs: source of the initial weights.
          width: of the layer; 0 for the configuration's.
        """
        width = width or config.d_feed_forward
        if not width:
            return None
        return FeedForward(
            width,
            norm(),
            d_model=config.d_model,
            use_bias=config.use_feed_forward_bias,
            is_fused=cls.is_fused,
            **cls.feed_forward_options(config),
            precision=precision,
            rngs=rngs,
        )

    @classmethod
    def make_experts(
        cls, config: Any, norm: Any, precision: Precision, rngs: nnx.Rngs
    ) -> ExpertLayer:
        """Return the layer of experts of one block."""
        shared = None
        if config.share_experts:
            beside = partial(NoNorm, precision=precision)
            shared = cls.make_feed_forward(
                config, beside, precision, rngs, config.d_shared
            )
        return ExpertLayer(
            config.expert_sizes,
            norm(),
            d_model=config.d_model,
            shared=shared,
            is_shared_gated=config.gate_shared,
            is_fused=cls.is_fused,
            precision=precision,
            rngs=rngs,
        )

    @classmethod
    def feed_forward_options(cls, config: Any) -> dict[str, Any]:
        """Return what is special of the feed-forward layers; see `FeedForward`."""
        return {}

    @classmethod
    def make_mixer(
        cls, config: Any, precision: Precision, rngs: nnx.Rngs, kind: str = ATTENTION
    ) -> Mixer:
        """Return the mixer of one block of a kind."""
        if kind == ATTENTION:
            sizes = config.attention_sizes
            return SelfAttention(sizes, precision=precision, rngs=rngs)
        return Mamba2Mixer(config.head_sizes, precision=precision, rngs=rngs)

    def runs(self) -> list[Run]:
        """Return the layers as runs of one kind; see `run_layers`."""
        return self.layers.runs()

    def as_residual(self, x: Float[Array, "b l m"]) -> Float[Array, "b l m"]:
        """Return embeddings, multiplied, in the dtype of the residual stream."""
        x = super().as_residual(x)
        return x * jnp.asarray(self.config.embedding_multiplier, x.dtype)

    def scale_logits(self, logits: Float[Array, "*b v"]) -> Float[Array, "*b v"]:
        """Return logits over the configuration's divisor."""
        return logits / jnp.asarray(self.config.logits_divisor, logits.dtype)

    def empty_cache(self, batch: int) -> Any:
        """Return the cache of a model that has seen no token."""
        return self.layers.empty_cache(batch, self.dtype)
