"""The likeliest outcomes that a report names."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from jmamba.models.text_model import TextModel
from jmamba.requests import take_token
from jmamba.types import Tokens


class Kind(NamedTuple):
    """What outcomes are called: one of them, and several."""

    one: str
    several: str


NEXT_TOKENS = Kind("next token", "next tokens")
CLASSES = Kind("class", "classes")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The likeliest next tokens of a text, or classes, best first.

    Attributes:
      ids: token ids, or numbers of classes.
      probabilities: their probabilities.
      labels: their readable forms.
      kind: what they are called.
    """

    ids: Int[np.ndarray, "t"]
    probabilities: Float[np.ndarray, "t"]
    labels: tuple[str, ...]
    kind: Kind = NEXT_TOKENS


def read_prediction(model: TextModel, tokens: Tokens) -> Float[np.ndarray, "v"]:
    """Return the logits that are read off one text, without its batch axis.

    Args:
      model: a language model, or a classifier of texts.
      tokens: of the text, (1, l).
    """
    return np.asarray(_read_prediction(*nnx.split(model), tokens)[0])


@partial(jax.jit, static_argnames="graphdef")
def _read_prediction(graphdef, state, tokens):
    model = nnx.merge(graphdef, state)
    logits = model.unembed(model.run_layers(model.embed(tokens)).x)
    return take_token(logits, model.find_query(tokens))


def best_predictions(
    logits: Float[np.ndarray, "v"],
    top: int,
    label: Callable[[list[int]], tuple[str, ...]],
    kind: Kind = NEXT_TOKENS,
) -> Predictions:
    """Return the likeliest tokens or classes.

    Args:
      logits: of all of them.
      top: how many to return.
      label: makes their readable forms.
      kind: what they are called.

    Examples:
      >>> found = best_predictions(np.log([1.0, 3.0]), 1, lambda ids: ("yes",))
      >>> found.ids.tolist(), found.probabilities.tolist()
      ([1], [0.75])
    """
    ids = np.argsort(-logits.astype(np.float64), kind="stable")[:top]
    return name_predictions(logits, ids.tolist(), label, kind)


def name_predictions(
    logits: Float[np.ndarray, "v"],
    ids: list[int],
    label: Callable[[list[int]], tuple[str, ...]],
    kind: Kind = NEXT_TOKENS,
) -> Predictions:
    """Return chosen tokens or classes, with their probabilities.

    Args:
      logits: of all of them.
      ids: which ones.
      label: makes their readable forms.
      kind: what they are called.
    """
    logits = logits.astype(np.float64)
    weights = np.exp(logits - logits.max())
    probabilities = (weights / weights.sum())[ids].astype(np.float32)
    return Predictions(np.asarray(ids, np.int32), probabilities, label(ids), kind)
