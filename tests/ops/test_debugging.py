"""JAX's own means of looking for mistakes: running without jit, and for NaNs."""

import jax
import jax.numpy as jnp
import pytest
from helpers import OPTIONS, assert_close, differentiable, make_inputs, run_scan
from random_models import random_text_model, random_tokens

from jmamba.ops import causal_conv1d

INPUTS = make_inputs(options=OPTIONS)


def scan_of(u):
    return tuple(run_scan(INPUTS._replace(u=u), None))


def convolve(x):
    return causal_conv1d(x, jnp.ones((x.shape[-1], 3)), activation="silu").y


MAPS = {
    "scan": lambda: scan_of(INPUTS.u),
    "tangent": lambda: jax.jvp(scan_of, (INPUTS.u,), (INPUTS.u,)),
    "cotangent": lambda: jax.vjp(scan_of, INPUTS.u)[1](scan_of(INPUTS.u)),
    "convolution": lambda: jax.value_and_grad(lambda x: jnp.sum(convolve(x)))(INPUTS.u),
    "model": lambda: random_text_model()(random_tokens()),
}


@pytest.mark.parametrize("name", MAPS)
def test_map_runs_without_jit(name):
    expected = MAPS[name]()
    with jax.disable_jit():
        actual = MAPS[name]()
    assert_close(actual, expected, 2e-6)


def push(u):
    # an infinite tangent, and decays that are zero: their product is no number
    return jax.jvp(scan_of, (INPUTS.u,), (u,))


def pull(u):
    _, last_state = scan_of(INPUTS.u)
    return jax.vjp(scan_of, INPUTS.u)[1]((u, jnp.zeros_like(last_state)))


INFINITE = jnp.full_like(INPUTS.u, jnp.inf)
FAULTS = {
    "selective_scan": scan_of,
    "selective_scan_tangent": push,
    "selective_scan_cotangent": pull,
    "window_sum": convolve,
}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("place", FAULTS)
def test_nan_is_reported_at_its_place(place, jit):
    fault = jax.jit(FAULTS[place]) if jit else FAULTS[place]
    # of the convolution's values it is the sum of infinities of either sign that fails
    found = place if place.startswith("selective") else "add"
    u = INFINITE if place != "window_sum" else INFINITE * jnp.sign(INPUTS.u)
    with jax.debug_nans(True):
        with pytest.raises(FloatingPointError, match=rf"encountered in {found}\b"):
            fault(u)


def test_gradient_without_nans_passes_the_search():
    def loss(parts):
        y, last_state = run_scan(INPUTS._replace(**parts), None)
        return jnp.sum(y) + jnp.sum(last_state)

    with jax.debug_nans(True):
        gradient = jax.grad(loss)(differentiable(INPUTS))
    assert all(jnp.all(jnp.isfinite(x)) for x in gradient.values())
