"""The state as a whole, perturbations, and layers with parts changed or left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_models import dense, exact_model, exact_trace
from flax import nnx
from helpers import assert_close, quick_jit

from jmamba.dynamics import (
    OMITTED,
    compare_traces,
    flatten_state,
    layer_span,
    layer_stack,
    layer_system,
    measure_collapse,
    partial_block,
    perturb,
    run_stack,
    sequence_exponents,
    state_map,
    token_jacobian,
    vector_field,
)
from jmamba.surgery import polarise_states
from jmamba.tracing.trace import trace
from jmamba_kernels.versions import enable_x64


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


@pytest.fixture
def x():
    return exact_trace().residual_in[1, 0]


def test_network_state_is_block_triangular_with_the_layers_exponents():
    model = exact_model(num_layers=2)
    tokens = jnp.array([3, 1, 4, 1, 5])
    f = state_map(model, tokens)
    start = flatten_state(model.empty_cache(1))
    state = flatten_state(model(tokens[None]).cache)
    value, J = quick_jit(lambda s: (f(s), token_jacobian(f, s)))(start)
    assert_close(value, state, 1e-14)
    assert not np.any(J[0, 1]) and np.any(J[1, 0])
    whole = trace(model, tokens[None])
    for layer in range(2):
        exponents = sequence_exponents(whole.layer(layer))
        expected = np.exp(5 * np.sort(np.asarray(exponents).ravel()))
        found = np.linalg.eigvals(J[layer, layer])
        found = found[np.argsort(np.abs(found))]
        # after five tokens a convolution of four has forgotten: zeros, and the rest
        np.testing.assert_allclose(found[:30], 0, atol=1e-9)
        np.testing.assert_allclose(found[30:], expected, rtol=1e-7)
    # eigenvalues below 1 do not keep a perturbation from growing for a while
    assert np.linalg.norm(dense(J), 2) > np.abs(np.linalg.eigvals(dense(J))).max()


def test_perturbations_grow_as_the_derivative_says(x):
    sizes = 10.0 ** jnp.arange(-7.0, -2.0)
    ladder = perturb(layer_span(exact_model()), x, sizes)
    np.testing.assert_allclose(ladder.slope, 1.0, atol=2e-3)
    np.testing.assert_allclose(ladder.gains[:3], ladder.linear_gain, rtol=1e-3)
    bent = perturb(lambda x: x**3, 0 * x, sizes)
    np.testing.assert_allclose(bent.slope, 3.0, rtol=1e-10)
    assert float(bent.linear_gain) == 0


def test_traces_differ_by_the_perturbation():
    first = exact_trace()
    second = first._replace(residual_out=first.residual_out * 1.001)
    np.testing.assert_allclose(compare_traces(first, second), 1e-3, rtol=1e-9)


def test_polarised_states_keep_all_and_nothing():
    model = exact_model()
    before = np.array(model.layers.mixer.A_log[...])
    polarised = polarise_states(model)
    np.testing.assert_array_equal(model.layers.mixer.A_log[...], before)
    recurrence = trace(polarised, jnp.array([[3, 1, 4]])).layer(0)
    A_bar = jnp.exp(recurrence.delta[..., None] * recurrence.A[None, None])
    assert np.all(A_bar[..., 0] == 1) and np.all(A_bar[..., -1] == 0)
    tiny = jnp.exp(jnp.array([1e-25, 1e3])[:, None, None] * recurrence.A[None])
    assert np.all(tiny[..., 0] == 1) and np.all(tiny[..., -1] == 0)
    graphdef, state = nnx.split(polarised)

    def loss(state):
        return jnp.sum(nnx.merge(graphdef, state)(jnp.array([[3, 1, 4]])).logits ** 2)

    gradient = quick_jit(jax.grad(loss))(state).layers.mixer.A_log[...]
    assert not np.any(gradient[..., 0]) and not np.any(gradient[..., -1])
    assert np.all(np.isfinite(gradient)) and np.all(gradient[..., 1] != 0)


def test_skip_weight_of_one_is_the_model(x):
    model, x = exact_model(), exact_trace().residual_in[0, 0]
    expected = exact_trace().residual_out[:, 0]
    assert_close(run_stack(layer_stack(model), x), expected, 1e-13)
    block = model.layer(0)
    half = run_stack(layer_stack(model, 0, 1, skip=0.5), x)[0]
    assert_close(half, block(x[None]).x[0] - 0.5 * x, 1e-13)
    # without the skip connection tokens of a longer text become alike
    far = jnp.tile(x, (4, 1))
    residual = {
        skip: measure_collapse(run_stack(layer_stack(model, skip=skip), far)).residual
        for skip in (0.0, 3.0)
    }
    assert residual[3.0][-1] > residual[0.0][-1]


def test_ladder_leads_from_the_system_to_the_layer(x):
    model = exact_model()
    block = model.layer(1)
    whole = partial_block(model, 1, OMITTED)(x)
    assert_close(whole, block(x[None]).x[0], 1e-13)
    W_in = block.mixer.in_proj.kernel[...][:, :10]
    F = vector_field(layer_system(model, 1), x @ W_in)
    bare = x + F @ block.mixer.out_proj.kernel[...]
    assert_close(partial_block(model, 1)(x), bare, 1e-13)
    rungs = [partial_block(model, 1, OMITTED[:i])(x) for i in range(5)]
    steps = [np.abs(a - b).max() for a, b in zip(rungs, rungs[1:], strict=False)]
    assert min(steps) > 1e-3  # every part does something


def test_variant_messages(x):
    with pytest.raises(ValueError, match="Unknown parts skip; give some of norm, conv"):
        partial_block(exact_model(), 0, {"skip"})
    with pytest.raises(ValueError, match="Falcon-Mamba.* Use a Mamba-1 model"):
        partial_block(exact_model(mixer_rms_eps=1e-6), 0)
    with pytest.raises(ValueError, match="has 1 state per channel, but 2 are"):
        polarise_states(exact_model(d_state=1))
    with pytest.raises(ValueError, match="range from 30 to 30"):
        state_map(exact_model(), jnp.array([30]))
    first = exact_trace()
    with pytest.raises(ValueError, match=r"Traces of layers \[0, 1, 2\] .* \[1\]"):
        compare_traces(
            first, trace(exact_model(), jnp.array([[1] * 5] * 2), layers=[1])
        )
