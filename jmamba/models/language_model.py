"""Language models of any blocks: embedding, stacked blocks, norm, output projection."""

import dataclasses
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from jmamba.layers.block import Block
from jmamba.layers.freezing import NOTHING, Frozen
from jmamba.layers.mixer import Mixer
from jmamba.layers.norm import Precision, RMSNorm
from jmamba.layers.selection import torch_uniform
from jmamba.layers.sizes import check_sizes
from jmamba.layers.stack import stack_layers
from jmamba.models.base import StackedModel
from jmamba.ops.sharding import keep_places
from jmamba.requests import take_token
from jmamba.types import LayerCache, Tokens
from jmamba_kernels import accumulation_dtype


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Describe what is around the blocks of a language model.

    Attributes:
      vocab_size: rows of the embedding table, padding included.
      d_model: width of the residual stream.
      num_layers: number of blocks.
      norm_eps: epsilon of the RMS norms of the residual stream.
      residual_in_fp32: whether the residual stream is float32 under lower precision.
      tie_embeddings: whether the output projection is the embedding table.
      eos_token_id: id that ends a text; None if there is none.

    Raises:
      ValueError: a size is not positive.
    """

    vocab_size: int
    d_model: int
    num_layers: int
    norm_eps: float = 1e-5
    residual_in_fp32: bool = True
    tie_embeddings: bool = True
    eos_token_id: int | None = None

    def __post_init__(self):
        """Check the sizes."""
        check_sizes(self, "vocab_size", "d_model", "num_layers")


class LMOutput(NamedTuple):
    """Next-token logits in float32 and what the model remembers of the tokens."""

    logits: Float[Array, "b l v"]
    cache: LayerCache


class LanguageModel(StackedModel):
    """A language model whose blocks mix tokens in one direction.

    A kind of it defines `make_mixer`. Blocks are stacked along a leading layer axis and
    scanned, so that compile time does not grow with depth. Parameters are ordinary
    `nnx.Param`s: `nnx.split`, `nnx.state` and optax work as usual.

    Args:
      config: sizes and choices.
      dtype: compute dtype of activations.
      param_dtype: dtype of stored weights; those that a recurrence is sensitive to are
        float32 at least.
      remat: whether the backward pass recomputes each block instead of storing its
        intermediate values.
      rngs: source of the initial weights.
    """

    reads: ClassVar[str] = "tokens"

    def __init__(
        self,
        config: Any,
        *,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        precision = Precision(jnp.dtype(param_dtype), jnp.dtype(dtype))
        self.config, self.remat, self.dtype = config, remat, precision.compute
        norm = partial(
            RMSNorm, config.d_model, eps=config.norm_eps, precision=precision
        )

        def block(rngs):
            return Block(norm(), self.make_mixer(config, precision, rngs))

        table_shape = (config.vocab_size, config.d_model)
        table = jax.random.normal(rngs.params(), table_shape, precision.param)
        self.embedding = nnx.Param(table * jnp.asarray(0.02, table.dtype))
        self.layers = stack_layers(block, config.num_layers, rngs)
        self.norm_f = norm()
        head_shape = (config.d_model, config.vocab_size)
        self.lm_head = (
            None
            if config.tie_embeddings
            else nnx.Param(torch_uniform(rngs.params(), head_shape, precision.param))
        )

    @staticmethod
    def make_mixer(config: Any, precision: Precision, rngs: nnx.Rngs) -> Mixer:
        """Return the mixer of one block.

        Args:
          config: of the model.
          precision: its dtypes.
          rngs: source of the initial weights.
        """
        raise NotImplementedError

    def __call__(
        self,
        tokens: Tokens,
        *,
        attention_mask: Bool[Array, "b l"] | Int[Array, "b l"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
        cache: LayerCache | None = None,
    ) -> LMOutput:
        """Return next-token logits for every position.

        Args:
          tokens: token ids.
          attention_mask: 1 where a token is, 0 where padding is, on any side: each row
            gets what it gets alone. Logits at padding are those of the token before.
          segment_ids: id of the sequence a token belongs to, for packed sequences;
            the first segment of a row continues from the cache.
          cache: what a call on earlier tokens returned; this call continues from there.

        Raises:
          ValueError: tokens are not (b, l) integers within the vocabulary, or the mask
            has another shape.
        """
        check_tokens(tokens, self.config.vocab_size, attention_mask)
        tokens = jnp.asarray(tokens)
        graphdef, state = nnx.split(self)
        return _forward(graphdef, state, tokens, attention_mask, segment_ids, cache)

    def check_inputs(self, inputs: Tokens) -> None:
        """Raise unless the tokens fit the model; see `check_tokens`."""
        check_tokens(inputs, self.config.vocab_size)

    def embed(
        self, inputs: Tokens, *, frozen: Frozen = NOTHING
    ) -> Float[Array, "b l m"]:
        """Return the residual stream before the first block."""
        x = jnp.take(self.embedding[...], inputs, axis=0).astype(self.dtype)
        if not self.config.residual_in_fp32:
            return x
        return x.astype(accumulation_dtype(x.dtype))

    def unembed(
        self, x: Float[Array, "*b m"], *, frozen: Frozen = NOTHING
    ) -> Float[Array, "*b v"]:
        """Return float32 logits of a residual stream after the last block."""
        x = self.norm_f(x, frozen=frozen.norm)
        head = self.embedding[...].T if self.lm_head is None else self.lm_head[...]
        dtype = accumulation_dtype(x.dtype)
        return jnp.matmul(x, head.astype(x.dtype), preferred_element_type=dtype)

    def read(
        self,
        x: Float[Array, "b l m"],
        query: int | Int[Array, "b"] | None = None,
        *,
        frozen: Frozen = NOTHING,
    ) -> Float[Array, "b v"]:
        """Return float32 logits of the token after one place.

        Args:
          x: a residual stream after the last block.
          query: the place, or one per text; None for the last.
          frozen: what derivatives take for constants.
        """
        place = -1 if query is None else query
        return self.unembed(take_token(x, place), frozen=frozen)

    @property
    def num_targets(self) -> int:
        """Tokens of the vocabulary."""
        return self.config.vocab_size

    def count_tokens(self, shape: tuple[int, ...]) -> int:
        """Return the length of texts (b, l)."""
        return shape[1]

    def usual_query(self, length: int) -> int:
        """Return the last token, off which the next one is read."""
        return length - 1

    def empty_cache(self, batch: int) -> LayerCache:
        """Return the cache of a model that has seen no token."""
        one = self.layers.mixer.empty_cache(batch, self.dtype)
        count = self.config.num_layers
        return jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), one)


CACHE_AXES: Any = LayerCache("sbd_", "sbdn")  # pyright: ignore[reportArgumentType]
"""Letters of a model's cache, for `keep_places`."""


def parameter_axes(state: Any) -> Any:
    """Return the letters of the parameters that results share axes with."""
    axes = {"embedding": "v_", "lm_head": "_v", "D": "sd"}

    def named(path, _):
        keys = [getattr(key, "key", None) for key in path]
        return next((axes[key] for key in keys if key in axes), "")

    return jax.tree.map_with_path(named, state)


@partial(jax.jit, static_argnames="graphdef")
def _forward(graphdef, state, tokens, attention_mask, segment_ids, cache):
    cache_axes = "" if cache is None else CACHE_AXES
    out_axes: Any = LMOutput("blv", CACHE_AXES)  # pyright: ignore[reportArgumentType]
    return keep_places(
        partial(_run, graphdef),
        (tokens, attention_mask, segment_ids, cache, state),
        ("bl", "bl", "bl", cache_axes, parameter_axes(state)),
        out_axes,
    )


def _run(graphdef, tokens, attention_mask, segment_ids, cache, state):
    model = nnx.merge(graphdef, state)
    if attention_mask is None:
        passed = model.run_layers(
            model.embed(tokens), cache=cache, segment_ids=segment_ids
        )
        return LMOutput(model.unembed(passed.x), passed.cache)
    order, lengths, back = compact(attention_mask)
    tokens = jnp.take_along_axis(tokens, order, axis=1)
    if segment_ids is not None:
        # padding goes on with the last token's segment, so that it resets nothing
        last = jnp.maximum(lengths - 1, 0)[:, None]
        places = jnp.minimum(jnp.arange(tokens.shape[1])[None], last)
        order = jnp.take_along_axis(order, places, axis=1)
        segment_ids = jnp.take_along_axis(segment_ids, order, axis=1)
    passed = model.run_layers(
        model.embed(tokens), cache=cache, lengths=lengths, segment_ids=segment_ids
    )
    logits = jnp.take_along_axis(model.unembed(passed.x), back[:, :, None], axis=1)
    return LMOutput(logits, passed.cache)


def compact(attention_mask):
    """Say how to move the tokens of each row to its front, padding to its end.

    Returns:
      order (b, l): which position comes at each place; lengths (b,): tokens per row;
      back (b, l): where to read the result of each position, padding reading that of
      the token before it.
    """
    mask = jnp.asarray(attention_mask).astype(bool)
    order = jnp.argsort(~mask, axis=1, stable=True)
    back = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
    return order, jnp.sum(mask, axis=1), back


def check_tokens(tokens, vocab_size: int, attention_mask=None) -> None:
    """Raise unless tokens are (b, l) integers within the vocabulary.

    Values are checked only where they are known, that is outside of jit.
    """
    shape, dtype = jnp.shape(tokens), jnp.result_type(tokens)
    if len(shape) != 2 or not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(
            f"tokens must be integers of shape (batch, length), but got {dtype} of "
            f"shape {shape}. For one text of ids write jnp.array([ids])."
        )
    if 0 in shape:
        raise ValueError(f"tokens are empty (shape {shape}); give at least one token.")
    if attention_mask is not None and jnp.shape(attention_mask) != shape:
        raise ValueError(
            f"attention_mask has shape {jnp.shape(attention_mask)}, but tokens have "
            f"{shape}; give one 0 or 1 per token."
        )
    if not isinstance(tokens, Tracer):
        values = np.asarray(tokens)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= vocab_size:
            raise ValueError(
                f"token ids must lie in [0, {vocab_size}), but range from {low} to "
                f"{high}. Was the text encoded with another model's tokenizer?"
            )
