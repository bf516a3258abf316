"""The three architectures, each with inputs and others of the same shape."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from random_models import random_mamba2_model, random_text_model, random_tokens
from vision_definition import draw_images, tiny_vim


class Case(NamedTuple):
    """A model, its inputs, other inputs, and what its directions are called."""

    model: Any
    inputs: Any
    others: Any
    directions: tuple[str, ...] = ("",)


def make_case(kind: str) -> Case:
    if kind == "vim":
        one, other = (jnp.asarray(draw_images(batch=2, seed=seed)) for seed in (1, 2))
        return Case(tiny_vim(), one, other, ("forward.", "backward."))
    model = random_text_model(layers=2) if kind == "mamba" else random_mamba2_model()
    return Case(model, random_tokens(), random_tokens(seed=1))


KINDS = ("mamba", "mamba2", "vim")
