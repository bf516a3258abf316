"""All that explains a picture of a Vim or a ViT, from pictures to grids of patches."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jmamba.attention import METHODS, completeness_gap, explain, patch_grid
from jmamba.models.vim.images import normalise
from jmamba.models.vim.model import Vim
from jmamba.recipes.vision.baselines import BASELINES, Maps, Pixels
from jmamba.recipes.vit import VIT_METHODS, ViT

RELEASED = "mamba_attribution, released code"
"""The paper's method as its released code computes it."""
INTEGRATED, IG_BASELINE, IG_STEPS = "integrated_gradients", "mean", 32
"""Integrated gradients, where their path starts, and the points of their sum."""

SIGNED = ("raw_attention", "attention_rollout", "alti_logit", "mamba_lrp",
          "gradient_x_input", "smooth_grad", INTEGRATED)  # fmt: skip
"""Methods of a Vim whose relevance has both signs; the others' is never negative."""

READINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "signed": np.asarray,
    "positive": lambda grid: np.maximum(grid, 0),
    "magnitude": np.abs,
}
"""Name -> what is made of relevance before it is a map."""

Grids = Float[np.ndarray, "b rows columns"]


class Explained(NamedTuple):
    """What a method says of pictures.

    Attributes:
      grid: relevance of patches, in rows and columns.
      gap: how much of the logit's change it misses, of integrated gradients only.
      change: the size of that change.
    """

    grid: Grids
    gap: Float[np.ndarray, "b"] | None = None
    change: Float[np.ndarray, "b"] | None = None


Explainer = Callable[[Pixels, Int[np.ndarray, "b"]], Explained]


def readings_of(kind: str, method: str) -> tuple[str, ...]:
    """Return the readings that a method's relevance has.

    Examples:
      >>> readings_of("vim", "alti"), readings_of("vit", "raw_attention")
      (('signed',), ('signed',))
    """
    return tuple(READINGS) if kind == "vim" and method in SIGNED else ("signed",)


def explainers(model: Vim | ViT) -> Mapping[str, Explainer]:
    """Return all explanations of a model, functions of pictures and classes."""
    if isinstance(model, ViT):
        return {
            name: partial(_explain_vit, model, method)
            for name, method in VIT_METHODS.items()
        }
    found: dict[str, Explainer] = {
        name: partial(_explain_vim, model, name) for name in METHODS
    }
    found[RELEASED] = partial(
        _explain_vim, model, "mamba_attribution", settings="official_2024"
    )
    found[INTEGRATED] = partial(_integrate, model)
    return found


def baselines(patch: int) -> Mapping[str, Explainer]:
    """Return maps that ask no model, as means over patches of a side."""

    def look(draw: Callable[[Pixels], Maps], images, target):
        maps = draw(images)
        rows, columns = (side // patch for side in maps.shape[1:])
        cut = maps.reshape(len(maps), rows, patch, columns, patch)
        return Explained(cut.mean(axis=(2, 4)))

    return {name: partial(look, draw) for name, draw in BASELINES.items()}


def _explain_vim(model: Vim, method: str, images, target, **options: Any) -> Explained:
    inputs = jnp.asarray(normalise(images))
    relevance = explain(model, inputs, method, target=jnp.asarray(target), **options)
    return Explained(np.asarray(patch_grid(model, relevance, *images.shape[1:3])))


def _integrate(model: Vim, images, target) -> Explained:
    inputs, classes = jnp.asarray(normalise(images)), jnp.asarray(target)
    relevance = explain(
        model, inputs, INTEGRATED, target=classes, baseline=IG_BASELINE, steps=IG_STEPS
    )
    gap = np.asarray(
        completeness_gap(model, inputs, relevance, target=classes, baseline=IG_BASELINE)
    )
    change = np.asarray(relevance).sum(axis=1) - gap
    grid = np.asarray(patch_grid(model, relevance, *images.shape[1:3]))
    return Explained(grid, np.abs(gap), np.abs(change))


def _explain_vit(model: ViT, method: Callable, images, target) -> Explained:
    relevance = method(model, jnp.asarray(normalise(images)), jnp.asarray(target))
    side = model.config.grid
    return Explained(np.asarray(relevance)[:, 1:].reshape(-1, side, side))
