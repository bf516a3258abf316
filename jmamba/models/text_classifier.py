"""Classifiers of texts: a head that reads classes off the last token."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jmamba.layers.freezing import NOTHING, Frozen
from jmamba.layers.letters import shared_letters
from jmamba.layers.linear import torch_uniform
from jmamba.layers.mixer import Mixer
from jmamba.layers.norm import Precision
from jmamba.layers.places import PASS_BY, Watch
from jmamba.layers.tabulation import tabulated
from jmamba.models.language_model import LanguageModel
from jmamba.models.text_model import TextModel
from jmamba.models.texts import TEXT_AXES, Texts, read_texts
from jmamba.ops.sharding import hold, keep_places
from jmamba.types import ArrayLike, Tokens
from jmamba_kernels import accumulation_dtype
from jmamba_kernels.versions import matmul_into

Made = TypeVar("Made", bound="TextClassifier")


def extend_config(config_class: type, config: Any, **changes: Any) -> Any:
    """Return a configuration of a class that has the fields of another, and more.

    Args:
      config_class: what is made.
      config: whose fields are taken.
      **changes: fields that differ.
    """
    fields = [f.name for f in dataclasses.fields(config) if f.init]
    return config_class(**{name: getattr(config, name) for name in fields} | changes)


class TextClassifier(TextModel):
    """A classifier of texts; its arguments are `TextModel`'s.

        logits = W_score norm(x[last token that is no padding])

    Called on texts of different lengths, it leaves padding out: what `attention_mask`
    says or, without one, what is the configuration's `pad_token_id`, on either side.
    Analyses read rows as they are, so they take padding behind the text only: the last
    token before it is then read off, and no padding has a part in that.

    A kind of it names the language model whose blocks it has, and its configuration.

    Attributes:
      score: the head, (d_model, num_classes).
    """

    letters: ClassVar[Mapping[str, str]] = {"embedding": "vm", "score": "mv"}
    language_class: ClassVar[type[LanguageModel]]
    config_class: ClassVar[type]

    def __init__(self, config: Any, *, rngs: nnx.Rngs, **options: Any):
        super().__init__(config, rngs=rngs, **options)
        shape = (config.d_model, config.num_classes)
        self.score = nnx.Param(
            torch_uniform(rngs.params(), shape, self.embedding.dtype)
        )

    @classmethod
    def make_mixer(cls, config: Any, precision: Precision, rngs: nnx.Rngs) -> Mixer:
        """Return the mixer of one block, as the language model has it."""
        return cls.language_class.make_mixer(config, precision, rngs)

    @classmethod
    def from_language_model(
        cls: type[Made],
        model: LanguageModel,
        classes: int | Sequence[str],
        *,
        pad_token_id: int | None = None,
        key: Any = 0,
    ) -> Made:
        """Return a classifier that reads texts as a language model does.

        Its head is new, to be trained; everything else is the language model's.

        Args:
          model: a language model of the same blocks.
          classes: what they are called, or how many there are.
          pad_token_id: id that fills up shorter texts; None for the model's own.
          key: seed of the head.

        Raises:
          ValueError: there are fewer than 2 classes.

        Examples:
          >>> import jmamba
          >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
          >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
          >>> classifier = jmamba.MambaClassifier.from_language_model(
          ...     model, ["bad", "good"], pad_token_id=0
          ... )
          >>> classifier([list(b"hello")]).shape
          (1, 2)
        """
        named = isinstance(classes, Sequence)
        count = len(classes) if isinstance(classes, Sequence) else classes
        if isinstance(classes, str) or count < 2:
            raise ValueError(
                f"classes={classes!r}: give the names of two or more, such as "
                '["bad", "good"], or their number.'
            )
        changes: dict[str, Any] = {"num_classes": count}
        changes |= {"class_names": tuple(classes)} if named else {}
        changes |= {} if pad_token_id is None else {"pad_token_id": pad_token_id}
        made = cls(
            extend_config(cls.config_class, model.config, **changes),
            dtype=model.dtype,
            param_dtype=model.embedding.dtype,
            remat=model.remat,
            rngs=nnx.Rngs(key),
        )
        made.embedding = nnx.clone(model.embedding)
        made.layers, made.norm_f = nnx.clone(model.layers), nnx.clone(model.norm_f)
        return made

    @tabulated
    def __call__(
        self,
        tokens: Tokens | ArrayLike | None = None,
        *,
        inputs_embeds: Float[Array, "b l m"] | ArrayLike | None = None,
        attention_mask: Int[Array, "b l"] | ArrayLike | None = None,
    ) -> Float[Array, "b v"]:
        """Return float32 logits of the classes of each text.

        Args:
          tokens: token ids (b, l).
          inputs_embeds: what the embedding table would hold of the tokens, in their
            place.
          attention_mask: 1 where a token is, 0 where padding is, on any side; None for
            what is not `pad_token_id`.

        Raises:
          TypeError: tokens are a text, or something is no array.
          ValueError: tokens are not (b, l) integers within the vocabulary, or the rest
            does not fit them or the model.
        """
        texts = read_texts(
            self.config,
            tokens,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
        )
        graphdef, state = nnx.split(self)
        return _classify(graphdef, state, self.mark_padding(texts))

    def check_inputs(self, inputs: Tokens | ArrayLike) -> Tokens:
        """Return tokens as an array, or raise unless they can be read as they are.

        Raises:
          ValueError: padding stands before a token of its text, or as `as_tokens`.
        """
        tokens, pad = super().check_inputs(inputs), self.config.pad_token_id
        if pad is None or isinstance(tokens, Tracer):
            return tokens
        is_text = np.asarray(tokens) != pad
        wrong = np.flatnonzero((~is_text[:, :-1] & is_text[:, 1:]).any(axis=1))
        if wrong.size:
            raise ValueError(
                f"Row {wrong[0]} has padding, which is token {pad}, before a token of "
                "its text. A call of the model leaves it out, but analyses read rows "
                "as they are: put padding behind the text."
            )
        return tokens

    def mark_padding(self, texts: Texts) -> Texts:
        """Return texts whose padding is marked, if the configuration says what it is.

        Args:
          texts: what `read_texts` returned; marks that are there already stay.
        """
        pad = self.config.pad_token_id
        if texts.attention_mask is not None or texts.tokens is None or pad is None:
            return texts
        return texts._replace(attention_mask=texts.tokens != pad)

    def unembed(
        self,
        x: Float[Array, "*b m"],
        *,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> Float[Array, "*b v"]:
        """Return float32 logits that the head reads off a residual stream."""
        x = at("final_norm", self.norm_f(x, frozen=frozen.norm))
        head = hold(self.score[...], "mv")
        dtype = accumulation_dtype(x.dtype)
        return at("logits", matmul_into(x, head.astype(x.dtype), dtype))

    @property
    def num_targets(self) -> int:
        """Classes."""
        return self.config.num_classes

    def find_query(self, inputs: Tokens) -> int | Int[Array, "b"]:
        """Return the last token of each text that is no padding."""
        pad = self.config.pad_token_id
        return inputs.shape[1] - 1 if pad is None else last_places(inputs != pad)


def last_places(mask: Any) -> Int[Array, "b"]:
    """Return the last place of each row that is marked; 0 where none is.

    Examples:
      >>> last_places(jnp.array([[1, 1, 0], [0, 0, 1]])).tolist()
      [1, 2]
    """
    places = jnp.arange(mask.shape[1])[None]
    return jnp.max(jnp.where(mask, places, 0), axis=1)


@partial(jax.jit, static_argnames="graphdef")
def _classify(graphdef, state, texts: Texts):
    def run(texts, state):
        model = nnx.merge(graphdef, state)
        passed, lengths, _ = model.run_texts(texts)
        if lengths is None:
            return model.read(passed.x)
        return model.read(passed.x, jnp.maximum(lengths - 1, 0))

    letters = shared_letters(nnx.merge(graphdef, state))
    return keep_places(run, (texts, state), (TEXT_AXES, letters), "bv")
