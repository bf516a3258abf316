"""Layers of attention multiplied in loops, in float64, for tests of explanations."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from helpers import quick_jit
from random_models import random_text_model, random_tokens
from vision_definition import draw_images, tiny_vim

import jmamba
from jmamba.attention import factorise, hidden_attention

LAYERS = 3
FIRST = 1  # 15/24 of three layers
CLASS = 4  # of 10 tokens: not the centre


@cache
def model_of(kind):
    if kind == "text":
        return random_text_model(layers=LAYERS)
    return tiny_vim(layers=LAYERS)


def inputs_of(kind):
    return random_tokens() if kind == "text" else jnp.asarray(draw_images())


def query_of(kind):
    return 6 if kind == "text" else CLASS


@cache
def traced(kind) -> Any:
    return jmamba.trace(model_of(kind), inputs_of(kind))


@cache
def matrices(kind, fold=()) -> np.ndarray:
    """All matrices of all channels, (s, b, d, l, l), in float64."""
    t, model = traced(kind), model_of(kind)
    layers = (factorise(model.layer(i), t.residual_in[i]) for i in range(LAYERS))
    found = [hidden_attention(layer, fold=fold) for layer in layers]
    return np.stack([np.asarray(alpha, np.float64) for alpha in found])


@cache
def gradients(kind, target) -> np.ndarray:
    """d logit / d output of every block (s, b, l, m), block after block."""
    model, t = model_of(kind), traced(kind)
    found = []
    for i in range(LAYERS):

        def logit(x, i=i):
            for j in range(i + 1, LAYERS):
                x = model.layer(j)(x).x
            logits = model.unembed(x)
            logits = logits[:, query_of(kind)] if kind == "text" else logits
            return jnp.sum(logits[:, target])

        found.append(quick_jit(jax.grad(logit))(t.residual_out[i]))
    return np.stack([np.asarray(x, np.float64) for x in found])


def product(layers, normalise):
    """T[last] ... T[first] of I + attention, for every sample."""
    out = []
    for b in range(layers.shape[1]):
        J = np.eye(layers.shape[-1])
        for a in layers[:, b]:
            T = np.eye(J.shape[0]) + a
            if normalise:
                T = T / T.sum(1, keepdims=True)
            J = T @ J
        out.append(J)
    return np.stack(out)


def scaled(x, axes):
    low, high = x.min(axes, keepdims=True), x.max(axes, keepdims=True)
    return (x - low) / (high - low)


def closed_form(a):
    """sum_l a_l / prod_{m <= l} s_m, s = 1 + sum a, plus the query's own share."""
    sums = np.cumprod(1 + a.sum(-1, keepdims=True), axis=0)
    return (a / sums).sum(0), 1 / sums[-1]
