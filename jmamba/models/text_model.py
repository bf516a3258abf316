"""Models of texts: an embedding, stacked blocks that read in one direction, a norm."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.layers.block import Block
from jmamba.layers.freezing import NOTHING, Frozen
from jmamba.layers.int8 import Int8Weights, value_of
from jmamba.layers.mixer import Mixer
from jmamba.layers.norm import Precision, RMSNorm
from jmamba.layers.runs import stack_layers
from jmamba.layers.stack import Passed, Remat
from jmamba.models.base import StackedModel
from jmamba.models.texts import Texts, as_tokens, compact
from jmamba.ops.sharding import hold
from jmamba.requests import take_token
from jmamba.types import ArrayLike, Tokens
from jmamba_kernels import accumulation_dtype


class TextModel(StackedModel):
    """A model of texts whose blocks mix tokens in one direction.

    Blocks are stacked along a leading layer axis and scanned, so that compile time does
    not grow with depth. Parameters are ordinary `nnx.Param`s: `nnx.split`, `nnx.state`
    and optax work as usual. A kind of it defines `make_mixer`; what is read off the
    last block, `unembed` and a call, its heads define.

    Args:
      config: sizes and choices.
      dtype: compute dtype of activations.
      param_dtype: dtype of stored weights; those that a recurrence is sensitive to are
        float32 at least.
      remat: whether the backward pass recomputes each block instead of storing its
        intermediate values: a bool, or a policy that says which values it does store;
        see `layers.stack.walk`.
      rngs: source of the initial weights.
    """

    reads: ClassVar[str] = "tokens"
    letters: ClassVar[Mapping[str, str]] = {"embedding": "vm"}
    norm_offset: ClassVar[float] = 0.0
    """What is added to the scales of norms of the residual stream."""

    def __init__(
        self,
        config: Any,
        *,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: Remat = False,
        rngs: nnx.Rngs,
    ):
        precision = Precision(jnp.dtype(param_dtype), jnp.dtype(dtype))
        self.config, self.remat, self.dtype = config, remat, precision.compute
        table_shape = (config.vocab_size, config.d_model)
        table = jax.random.normal(rngs.params(), table_shape, precision.param)
        self.embedding = nnx.Param(table * jnp.asarray(0.02, table.dtype))
        self.layers = self.make_layers(config, precision, rngs)
        self.norm_f = self.make_norm(config, precision)

    @classmethod
    def make_layers(cls, config: Any, precision: Precision, rngs: nnx.Rngs) -> Any:
        """Return the stacked blocks.

        Args:
          config: of the model.
          precision: its dtypes.
          rngs: source of the initial weights.
        """

        def block(rngs):
            return Block(
                cls.make_norm(config, precision),
                cls.make_mixer(config, precision, rngs),
            )

        return stack_layers(block, config.num_layers, rngs)

    @classmethod
    def make_norm(cls, config: Any, precision: Precision) -> RMSNorm:
        """Return a norm of the residual stream.

        Args:
          config: of the model.
          precision: its dtypes.
        """
        return RMSNorm(
            config.d_model,
            eps=config.norm_eps,
            offset=cls.norm_offset,
            precision=precision,
        )

    @classmethod
    def make_mixer(cls, config: Any, precision: Precision, rngs: nnx.Rngs) -> Mixer:
        """Return the mixer of one block.

        Args:
          config: of the model.
          precision: its dtypes.
          rngs: source of the initial weights.
        """
        raise NotImplementedError

    def check_inputs(self, inputs: Tokens | ArrayLike) -> Tokens:
        """Return tokens as an array, or raise unless they fit; see `as_tokens`."""
        return as_tokens(inputs, self.config.vocab_size)

    def embed(
        self, inputs: Tokens, *, frozen: Frozen = NOTHING
    ) -> Float[Array, "b l m"]:
        """Return the residual stream before the first block."""
        table = value_of(self.embedding)
        if isinstance(table, Int8Weights):
            return self.as_residual(table.look_up(inputs))
        table = hold(table, "vm")  # parts of m are gathered, not of v
        return self.as_residual(jnp.take(table, inputs, axis=0))

    def embed_texts(self, texts: Texts) -> Float[Array, "b l m"]:
        """Return the residual stream of texts, which may be embedded already."""
        if texts.embeddings is not None:
            return self.as_residual(texts.embeddings)
        assert texts.tokens is not None
        return self.embed(texts.tokens)

    def as_residual(self, x: Float[Array, "b l m"]) -> Float[Array, "b l m"]:
        """Return embeddings in the dtype of the residual stream."""
        x = x.astype(self.dtype)
        if not self.config.residual_in_fp32:
            return x
        return x.astype(accumulation_dtype(x.dtype))

    def read(
        self,
        x: Float[Array, "b l m"],
        query: int | Int[Array, "b *q"] | None = None,
        *,
        frozen: Frozen = NOTHING,
    ) -> Float[Array, "b *q v"]:
        """Return float32 logits that are read off one token.

        Args:
          x: a residual stream after the last block.
          query: the place, or one per text, or several per text; None for the last.
          frozen: what derivatives take for constants.
        """
        place = -1 if query is None else query
        return self.unembed(take_token(x, place), frozen=frozen)

    def count_tokens(self, shape: tuple[int, ...]) -> int:
        """Return the length of texts (b, l)."""
        return shape[1]

    def usual_query(self, length: int) -> int:
        """Return the last token, off which logits are read."""
        return length - 1

    def mark_padding(self, texts: Texts) -> Texts:
        """Return texts whose padding is marked, where the model knows of it."""
        return texts

    def run_texts(
        self, texts: Texts, **options: Any
    ) -> tuple[Passed, Int[Array, "b"] | None, Int[Array, "b l"] | None]:
        """Run the blocks over texts, each row as it is run alone.

        Tokens stand at the front of their rows while they are run.

        Args:
          texts: what `read_texts` returned.
          **options: of `run_layers`.

        Returns:
          What came of the walk; how many tokens each row has; where to read the result
          of each position, padding reading that of the token before it. The last two
          are None where no padding is marked.
        """
        x, segment_ids = self.embed_texts(texts), texts.segment_ids
        if texts.attention_mask is None:
            passed = self.run_layers(x, segment_ids=segment_ids, **options)
            return passed, None, None
        order, lengths, back = compact(texts.attention_mask)
        x = jnp.take_along_axis(x, order[:, :, None], axis=1)
        if segment_ids is not None:
            # padding goes on with the last token's segment, so that it resets nothing
            last = jnp.maximum(lengths - 1, 0)[:, None]
            places = jnp.minimum(jnp.arange(x.shape[1])[None], last)
            order = jnp.take_along_axis(order, places, axis=1)
            segment_ids = jnp.take_along_axis(segment_ids, order, axis=1)
        passed = self.run_layers(x, lengths=lengths, segment_ids=segment_ids, **options)
        return passed, lengths, back
