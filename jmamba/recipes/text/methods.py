"""What explains a sentence: every method and its presets."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jmamba.attention import METHODS, AttentionSettings
from jmamba.models.mamba.model import MambaLM
from jmamba.recipes.text.operators import OPERATORS
from jmamba.recipes.text.sentences import LABELS, PADDING, Encoded
from jmamba.recipes.text.sentiment import predict

Method = Callable[[MambaLM, Encoded], np.ndarray]
"""Returns the relevance of all tokens to the right label, (b, l)."""

RELEASED, UNCLAMPED = "released code", "no clamp"
LARGEST, SMALLEST = "largest channel", "smallest channel"
VARIANTS = {
    RELEASED: "official_2024",
    UNCLAMPED: AttentionSettings(clamp="none"),
    "absolute": AttentionSettings(clamp="abs"),
    LARGEST: AttentionSettings(channels="max"),
    SMALLEST: AttentionSettings(channels="min"),
}
"""Settings of Mamba-Attribution: its released code, and the paper's ablations."""

IG_STEPS, IG_TOLERANCE = 16, 0.01
"""Points on each piece of the way, and the part of the change that may be missed."""


def all_explanations() -> dict[str, Method]:
    """Return every explanation that asks the model, by the name it has in tables."""
    found: dict[str, Method] = {"embedding norm": _embedding_norm}
    for name, remove in OPERATORS.items():
        found[f"leave one out, {name}"] = partial(_leave_one_out, remove)
    for name, method in METHODS.items():
        found[name] = partial(ask_at_end, method)
    found["integrated_gradients"] = integrate_from_padding
    for variant, settings in VARIANTS.items():
        attribution = METHODS["mamba_attribution"]
        name = f"mamba_attribution, {variant}"
        found[name] = partial(ask_at_end, attribution, settings=settings)
    return found


def explain_all(
    explanation: Method, model: MambaLM, encoded: Encoded, *, batch: int = 20
) -> Float[np.ndarray, "b l"]:
    """Return the relevance of the words of many sentences, 0 where there is none."""
    found = [
        np.asarray(explanation(model, encoded.take(slice(start, start + batch))))
        for start in range(0, len(encoded.labels), batch)
    ]
    return np.where(encoded.present, np.concatenate(found), 0)


def targets(encoded: Encoded) -> Int[np.ndarray, "b"]:
    """Return the token of each sentence's right label."""
    return np.array(LABELS, np.int32)[encoded.labels]


def ask_at_end(
    method: Callable, model: MambaLM, encoded: Encoded, **options: Any
) -> Any:
    """Return what a method says of the right labels, read at the ends."""
    places = {"target": targets(encoded), "query": encoded.query}
    options |= {name: jnp.asarray(value) for name, value in places.items()}
    return method(model, jnp.asarray(encoded.tokens), **options)


def integrate_from_padding(model: MambaLM, encoded: Encoded) -> np.ndarray:
    """Return integrated gradients from `<pad>` in place of all words, the end kept.

    That is neither of the ways in which words are taken out. Pieces of the way are
    halved until the change of the logit is missed by 1 % at most, which is warned of
    where it cannot be had.
    """
    start = np.where(encoded.present, PADDING, encoded.tokens)
    options = {"steps": IG_STEPS, "tolerance": IG_TOLERANCE}
    method = METHODS["integrated_gradients"]
    found = ask_at_end(method, model, encoded, baseline=jnp.asarray(start), **options)
    return np.asarray(found)


def _embedding_norm(model, encoded):
    return jnp.linalg.norm(model.embed(jnp.asarray(encoded.tokens)), axis=-1)


def _leave_one_out(remove, model, encoded):
    """Return by how much the logit falls when a word alone is taken out."""

    def logit(one):
        return np.take_along_axis(predict(model, one), encoded.labels[:, None], 1)

    whole = logit(encoded)
    relevance = np.zeros(encoded.tokens.shape)
    for place in range(int(encoded.query.max())):
        gone = np.zeros(encoded.tokens.shape, bool)
        gone[:, place] = place < encoded.query
        relevance[:, place] = (whole - logit(remove(encoded, gone)))[:, 0]
    return relevance
