"""What explains a sentence: every method, its presets, and baselines."""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jmamba.attention import METHODS, AttentionSettings
from jmamba.models.mamba.model import MambaLM
from jmamba.recipes.text.sentences import LABELS, UNKNOWN, Encoded
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

IG_STEPS = 32


def all_explanations(seed: int) -> dict[str, Method]:
    """Return every explanation by the name it has in tables.

    Args:
      seed: of the random one.
    """
    found: dict[str, Method] = {
        "random": partial(_random, np.random.default_rng(seed)),
        "embedding norm": _embedding_norm,
        "leave one out": _leave_one_out,
    }
    for name, method in METHODS.items():
        found[name] = partial(_ask, method)
    found["integrated_gradients"] = _integrated_gradients
    for variant, settings in VARIANTS.items():
        attribution = METHODS["mamba_attribution"]
        name = f"mamba_attribution, {variant}"
        found[name] = partial(_ask, attribution, settings=settings)
    return found


def explain_all(
    explanation: Method, model: MambaLM, encoded: Encoded, *, batch: int = 60
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


def _ask(method, model, encoded, **options):
    places = {"target": targets(encoded), "query": encoded.query}
    options |= {name: jnp.asarray(value) for name, value in places.items()}
    return method(model, jnp.asarray(encoded.tokens), **options)


def _integrated_gradients(model, encoded):
    """Start from the same sentence with all its words unknown."""
    start = np.where(encoded.present, UNKNOWN, encoded.tokens)
    method = METHODS["integrated_gradients"]
    return _ask(method, model, encoded, baseline=jnp.asarray(start), steps=IG_STEPS)


def _random(rng, model, encoded):
    return rng.normal(size=encoded.tokens.shape)


def _embedding_norm(model, encoded):
    return jnp.linalg.norm(model.embed(jnp.asarray(encoded.tokens)), axis=-1)


def _leave_one_out(model, encoded):
    """Return by how much the logit falls when a word alone becomes unknown."""

    def logit(one):
        return np.take_along_axis(predict(model, one), encoded.labels[:, None], 1)

    whole = logit(encoded)
    relevance = np.zeros(encoded.tokens.shape)
    for place in range(int(encoded.query.max())):
        tokens = encoded.tokens.copy()
        inside = place < encoded.query
        tokens[inside, place] = UNKNOWN
        fall = whole - logit(encoded._replace(tokens=tokens))
        relevance[:, place] = fall[:, 0]
    return relevance
