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

from jmamba.layers.freezing import NOTHING, Frozen
from jmamba.layers.int8 import split_steps, stretch, value_of
from jmamba.layers.letters import shared_letters
from jmamba.layers.linear import torch_uniform
from jmamba.layers.places import PASS_BY, Watch
from jmamba.layers.tabulation import tabulated
from jmamba.models.base import Loaded
from jmamba.models.cache import GenerationCache, cache_letters, open_cache
from jmamba.models.text_model import TextModel
from jmamba.models.texts import TEXT_AXES, Texts, read_texts
from jmamba.ops.sharding import hold, keep_places
from jmamba.types import ArrayLike, Tokens, exportable
from jmamba_kernels import accumulation_dtype
from jmamba_kernels.versions import matmul_into


@exportable
class LMOutput(NamedTuple):
    """Next-token logits in float32 and what the model remembers of the tokens."""

    logits: Float[Array, "b l v"]
    cache: Any


class LanguageModel(TextModel):
    """A language model whose blocks mix tokens in one direction.

    Its arguments are `TextModel`'s, and a kind of it defines `make_mixer`.

    To untie the output projection, assign it: `model.lm_head = nnx.Param(weights)` of
    shape (d_model, vocab_size), or a configuration that says so; None ties it again.
    """

    letters: ClassVar[Mapping[str, str]] = {"embedding": "vm", "lm_head": "mv"}

    def __init__(self, config: Any, *, rngs: nnx.Rngs, **options: Any):
        super().__init__(config, rngs=rngs, **options)
        head_shape, param = (config.d_model, config.vocab_size), self.embedding.dtype
        self.lm_head = nnx.data(
            None
            if config.tie_embeddings
            else nnx.Param(torch_uniform(rngs.params(), head_shape, param))
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

    def unembed(
        self,
        x: Float[Array, "*b m"],
        *,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> Float[Array, "*b v"]:
        """Return float32 logits of a residual stream after the last block."""
        x = at("final_norm", self.norm_f(x, frozen=frozen.norm))
        if self.lm_head is None:
            head, steps = split_steps(value_of(self.embedding), inputs=-1)
            head = head.T
        else:
            head, steps = split_steps(value_of(self.lm_head), inputs=-2)
        head = hold(head, "mv")
        dtype = accumulation_dtype(x.dtype)
        logits = stretch(matmul_into(x, head.astype(x.dtype), dtype), steps)
        return at("logits", self.scale_logits(logits))

    def scale_logits(self, logits: Float[Array, "*b v"]) -> Float[Array, "*b v"]:
        """Return logits as the model puts them out, of what its last map does."""
        return logits

    @property
    def num_targets(self) -> int:
        """Tokens of the vocabulary."""
        return self.config.vocab_size

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
    passed, _, back = model.run_texts(texts, cache=cache)
    logits = model.unembed(passed.x)
    if back is not None:
        logits = jnp.take_along_axis(logits, back[:, :, None], axis=1)
    return LMOutput(logits, passed.cache)
