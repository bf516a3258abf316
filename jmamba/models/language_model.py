"""Language models of any blocks: embedding, stacked blocks, norm, output projection."""

import dataclasses
import os
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.layers.block import Block
from jmamba.layers.freezing import NOTHING, Frozen
from jmamba.layers.letters import shared_letters
from jmamba.layers.mixer import Mixer
from jmamba.layers.norm import Precision, RMSNorm
from jmamba.layers.places import PASS_BY, Watch
from jmamba.layers.runs import stack_layers
from jmamba.layers.selection import torch_uniform
from jmamba.layers.stack import Remat
from jmamba.layers.tabulation import tabulated
from jmamba.models.base import Loaded, StackedModel
from jmamba.models.cache import GenerationCache, cache_letters, open_cache
from jmamba.models.texts import TEXT_AXES, Texts, as_tokens, compact, read_texts
from jmamba.ops.sharding import hold, keep_places
from jmamba.requests import take_token
from jmamba.types import ArrayLike, Tokens, exportable
from jmamba_kernels import accumulation_dtype
from jmamba_kernels.versions import matmul_into


@exportable
class LMOutput(NamedTuple):
    """Next-token logits in float32 and what the model remembers of the tokens."""

    logits: Float[Array, "b l v"]
    cache: Any


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
        intermediate values: a bool, or a policy that says which values it does store;
        see `layers.stack.walk`.
      rngs: source of the initial weights.

    To untie the output projection, assign it: `model.lm_head = nnx.Param(weights)` of
    shape (d_model, vocab_size), or a configuration that says so; None ties it again.
    """

    reads: ClassVar[str] = "tokens"
    letters: ClassVar[Mapping[str, str]] = {"embedding": "vm", "lm_head": "mv"}

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
        self.norm_f = RMSNorm(config.d_model, eps=config.norm_eps, precision=precision)
        head_shape = (config.d_model, config.vocab_size)
        self.lm_head = nnx.data(
            None
            if config.tie_embeddings
            else nnx.Param(torch_uniform(rngs.params(), head_shape, precision.param))
        )

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; output projection and configuration follow each other."""
        super().__setattr__(name, value)
        both = "lm_head", "config"
        if name not in both or not all(hasattr(self, one) for one in both):
            return
        is_tied = self.lm_head is None
        if self.config.tie_embeddings == is_tied:
            return
        if name == "lm_head":
            self.config = dataclasses.replace(self.config, tie_embeddings=is_tied)
        else:
            head = nnx.Param(self.embedding[...].T) if is_tied else None
            super().__setattr__("lm_head", nnx.data(head))

    @classmethod
    def from_pretrained(
        cls: type[Loaded],
        path_or_id: str | os.PathLike,
        *,
        tie_embeddings: bool | None = None,
        **options: Any,
    ) -> Loaded:
        """Load a language model; see `StackedModel.from_pretrained`.

        Args:
          path_or_id: a folder, or a Hub id.
          tie_embeddings: False for an output projection of its own, which begins as the
            embedding table; None for what the checkpoint says.
          **options: of `StackedModel.from_pretrained`.

        Raises:
          ValueError: embeddings are to be tied that the checkpoint has untied.
        """
        model = super().from_pretrained(path_or_id, **options)
        if tie_embeddings and not model.config.tie_embeddings:
            raise ValueError(
                f"{path_or_id} has an output projection of its own, which "
                "tie_embeddings=True would drop. Leave it out; to drop it, type "
                "model.lm_head = None."
            )
        if tie_embeddings is False:
            model.config = dataclasses.replace(model.config, tie_embeddings=False)
        return model

    @classmethod
    def make_layers(cls, config: Any, precision: Precision, rngs: nnx.Rngs) -> Any:
        """Return the stacked blocks.

        Args:
          config: of the model.
          precision: its dtypes.
          rngs: source of the initial weights.
        """
        norm = partial(
            RMSNorm, config.d_model, eps=config.norm_eps, precision=precision
        )

        def block(rngs):
            return Block(norm(), cls.make_mixer(config, precision, rngs))

        return stack_layers(block, config.num_layers, rngs)

    @classmethod
    def make_mixer(cls, config: Any, precision: Precision, rngs: nnx.Rngs) -> Mixer:
        """Return the mixer of one block.

        Args:
          config: of the model.
          precision: its dtypes.
          rngs: source of the initial weights.
        """
        raise NotImplementedError

    @tabulated
    def __call__(
        self,
        tokens: Tokens | ArrayLike | None = None,
        *,
        inputs_embeds: Float[Array, "b l m"] | ArrayLike | None = None,
        attention_mask: Int[Array, "b l"] | ArrayLike | None = None,
        segment_ids: Int[Array, "b l"] | ArrayLike | None = None,
        cache: GenerationCache | Any = None,
    ) -> LMOutput:
        """Return next-token logits for every position.

        Arrays may be of JAX, NumPy or torch, or lists.

        Args:
          tokens: token ids (b, l).
          inputs_embeds: what the embedding table would hold of the tokens, in their
            place.
          attention_mask: 1 where a token is, 0 where padding is, on any side: each row
            gets what it gets alone. Logits at padding are those of the token before.
          segment_ids: id of the sequence a token belongs to, for packed sequences;
            the first segment of a row continues from the cache.
          cache: what a call on earlier tokens, or a generation, returned, or the cache
            in it; this call continues from there.

        Raises:
          TypeError: tokens are a text, or something is no array or no cache.
          ValueError: tokens are not (b, l) integers within the vocabulary, or the rest
            does not fit them or the model.
        """
        texts = read_texts(
            self.config,
            tokens,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            segment_ids=segment_ids,
        )
        layers = open_cache(self, cache, texts)
        graphdef, state = nnx.split(self)
        return _forward(graphdef, state, texts, layers)

    def check_inputs(self, inputs: Tokens | ArrayLike) -> Tokens:
        """Return tokens as an array, or raise unless they fit; see `as_tokens`."""
        return as_tokens(inputs, self.config.vocab_size)

    def embed(
        self, inputs: Tokens, *, frozen: Frozen = NOTHING
    ) -> Float[Array, "b l m"]:
        """Return the residual stream before the first block."""
        table = hold(self.embedding[...], "vm")  # parts of m are gathered, not of v
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

    def unembed(
        self,
        x: Float[Array, "*b m"],
        *,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> Float[Array, "*b v"]:
        """Return float32 logits of a residual stream after the last block."""
        x = at("final_norm", self.norm_f(x, frozen=frozen.norm))
        head = self.embedding[...].T if self.lm_head is None else self.lm_head[...]
        head = hold(head, "mv")
        dtype = accumulation_dtype(x.dtype)
        logits = matmul_into(x, head.astype(x.dtype), dtype)
        return at("logits", self.scale_logits(logits))

    def scale_logits(self, logits: Float[Array, "*b v"]) -> Float[Array, "*b v"]:
        """Return logits as the model puts them out, of what its last map does."""
        return logits

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

    def empty_cache(self, batch: int) -> Any:
        """Return the cache of a model that has seen no token."""
        one = self.layers.mixer.empty_cache(batch, self.dtype)
        count = self.config.num_layers
        return jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), one)


@partial(jax.jit, static_argnames="graphdef")
def _forward(graphdef, state, texts: Texts, cache):
    model = nnx.merge(graphdef, state)
    letters = cache_letters(model)
    cache_axes = "" if cache is None else letters
    out_axes: Any = LMOutput("blv", letters)  # pyright: ignore[reportArgumentType]
    return keep_places(
        partial(_run, graphdef),
        (texts, cache, state),
        (TEXT_AXES, cache_axes, shared_letters(model)),
        out_axes,
    )


def _run(graphdef, texts: Texts, cache, state):
    model = nnx.merge(graphdef, state)
    x, segment_ids = model.embed_texts(texts), texts.segment_ids
    if texts.attention_mask is None:
        passed = model.run_layers(x, cache=cache, segment_ids=segment_ids)
        return LMOutput(model.unembed(passed.x), passed.cache)
    order, lengths, back = compact(texts.attention_mask)
    x = jnp.take_along_axis(x, order[:, :, None], axis=1)
    if segment_ids is not None:
        # padding goes on with the last token's segment, so that it resets nothing
        last = jnp.maximum(lengths - 1, 0)[:, None]
        places = jnp.minimum(jnp.arange(x.shape[1])[None], last)
        order = jnp.take_along_axis(order, places, axis=1)
        segment_ids = jnp.take_along_axis(segment_ids, order, axis=1)
    passed = model.run_layers(x, cache=cache, lengths=lengths, segment_ids=segment_ids)
    logits = jnp.take_along_axis(model.unembed(passed.x), back[:, :, None], axis=1)
    return LMOutput(logits, passed.cache)
