"""The Jacobian of one layer by its structure, and contraction maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_models import exact_model, exact_trace
from flax import nnx

from jmamba.dynamics import (
    contraction_map,
    depth_exponents,
    diagonal_blocks,
    jacobian_norms,
    layer_span,
    layer_stack,
    log_norms,
    singular_values,
    token_jacobian,
)
from jmamba.dynamics.trained.layer_jacobian import READERS_AT_ONCE, squared_layer_norms
from jmamba.layers.runs import cut_runs
from jmamba_kernels.versions import enable_x64

FALCON = {"mixer_rms_eps": 1e-6}


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def tokens(length):
    return jax.random.normal(jax.random.key(length), (length, 6))


# fewer than the convolution's window; more readers than one product takes
@pytest.mark.parametrize("length", [2, READERS_AT_ONCE + 6])
def test_norms_of_a_layer_equal_its_blocks(length):
    f, x = layer_span(exact_model(), 1, 2), tokens(length)
    expected = jnp.linalg.norm(token_jacobian(f, x), axis=(2, 3))
    np.testing.assert_allclose(jacobian_norms(f, x), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("changes, at_once", [(FALCON, 4)])
def test_norms_of_a_layer_in_parts_and_with_inner_norms(changes, at_once):
    model, x = exact_model(**changes), tokens(7)
    (run,) = cut_runs(model.runs(), 2, 3)
    ours = squared_layer_norms(run.open, run.parameters, x, at_once=at_once)
    blocks = token_jacobian(layer_span(model, 2, 3), x)
    np.testing.assert_allclose(ours, jnp.sum(blocks**2, axis=(2, 3)), rtol=1e-12)


def test_norms_of_a_layer_hold_at_zero_tokens():
    f, x = layer_span(exact_model(), 0, 1), jnp.zeros((2, 6))
    expected = jnp.linalg.norm(token_jacobian(f, x), axis=(2, 3))
    np.testing.assert_allclose(jacobian_norms(f, x), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("changes", [{}, FALCON])
def test_contraction_map_equals_the_dense_log_norms(changes):
    model, x = exact_model(**changes), exact_trace(**changes).residual_in[:, 0]
    ours = contraction_map(model, x, steps=6)
    dense = jnp.stack([log_norms(layer_span(model, i, i + 1), x[i]) for i in range(3)])
    np.testing.assert_allclose(ours.log_norms, dense, atol=1e-12)
    few = contraction_map(model, x, steps=3, memory_limit=1)
    # from below, and no farther from an eigenvalue than the residual says
    assert np.all(few.log_norms <= dense + 1e-12)
    assert np.all(few.residuals >= 0)


def test_contraction_map_of_the_identity_is_zero():
    """A layer whose output is nothing: the search ends at once, and says so."""
    graphdef, state = nnx.split(exact_model())
    silent = jax.tree.map_with_path(
        lambda path, v: 0 * v if "out_proj" in jax.tree_util.keystr(path) else v, state
    )
    model = nnx.merge(graphdef, silent)
    found = contraction_map(model, exact_trace().residual_in[:, 0], steps=5)
    np.testing.assert_allclose(found.log_norms, 0.0, atol=1e-14)
    np.testing.assert_allclose(found.residuals, 0.0, atol=1e-14)


def test_exponents_do_not_depend_on_how_many_directions_fly_at_once():
    stack, x = layer_stack(exact_model()), exact_trace().residual_in[0, 0]
    whole = depth_exponents(stack, x, 3)
    limit = 4 * 3 * x.size * 8  # no room for two in flight
    parts = depth_exponents(stack, x, 3, memory_limit=limit)
    np.testing.assert_allclose(parts.per_layer, whole.per_layer, rtol=1e-12)


def test_what_does_not_fit_is_refused_with_bytes_and_an_alternative():
    f, x = layer_span(exact_model()), tokens(5)
    with pytest.raises(ValueError, match=r"diagonal_blocks .* 0.00 GiB .* log_norms\("):
        diagonal_blocks(f, x, memory_limit=100)
    with pytest.raises(ValueError, match=r"singular_values would .* GiB .* fewer valu"):
        singular_values(f, x, 2, memory_limit=100)
    with pytest.raises(ValueError, match=r"depth_exponents would .* one token by tok"):
        depth_exponents(layer_stack(exact_model()), x, 2, memory_limit=100)


@pytest.mark.parametrize("measure", [
    token_jacobian, jacobian_norms, diagonal_blocks, log_norms, singular_values,
])  # fmt: skip
def test_values_that_are_not_finite_are_refused(measure):
    f, x = layer_span(exact_model()), tokens(3)
    with pytest.raises(ValueError, match="The tokens hold values that are not finite"):
        measure(f, x.at[1, 2].set(jnp.inf))
    broken = jax.tree.map(lambda v: v * jnp.nan, f)
    with pytest.raises(ValueError, match="model's weights hold values that are not fi"):
        measure(broken, x)


def test_depth_and_contraction_messages():
    model, x = exact_model(), exact_trace().residual_in[:, 0]
    with pytest.raises(ValueError, match="The tokens hold values that are not finite"):
        depth_exponents(layer_stack(model), x[0] * jnp.nan)
    with pytest.raises(ValueError, match="The tokens hold values that are not finite"):
        contraction_map(model, x * jnp.nan, steps=2)
    with pytest.raises(ValueError, match="holds 2 layers, but the model has 3"):
        contraction_map(model, x[:2], steps=2)
    with pytest.raises(ValueError, match="steps=7: give 1 to 6, the width of a token"):
        contraction_map(model, x, steps=7)
