import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close

import jmamba
from jmamba.dynamics import jacobian_norms, layer_span, token_jacobian


@pytest.fixture(scope="module")
def model():
    config = jmamba.MambaConfig(vocab_size=32, d_model=8, num_layers=3, d_state=4)
    return jmamba.MambaLM(config, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def stream(model):
    return jmamba.trace(model, jnp.array([[3, 1, 4, 1, 5, 9, 2]])).residual_in[:, 0]


@pytest.mark.parametrize("span", [(0, 3), (1, 2), (1, 3), (0, None)])
def test_layer_span_runs_the_layers_it_names(model, stream, span):
    x = stream[span[0]]
    expected = x[None]
    for i in range(span[0], span[1] or 3):
        expected = model.layer(i)(expected).x
    assert_close(layer_span(model, *span)(x), expected[0], 1e-6)


@pytest.mark.parametrize("span", [(0, 1), (0, 3)])
def test_token_jacobian_equals_reverse_mode(model, stream, span):
    f = layer_span(model, *span)
    x = stream[span[0]]
    blocks = token_jacobian(f, x)
    chex.assert_shape(blocks, (7, 7, 8, 8))
    assert_close(blocks, jnp.moveaxis(jax.jacrev(f)(x), 1, 2), 1e-5)


def test_token_jacobian_equals_finite_differences(model, stream):
    f, x = layer_span(model, 1, 2), stream[1]
    step = 1e-2
    difference = (f(x.at[2, 5].add(step)) - f(x.at[2, 5].add(-step))) / (2 * step)
    assert_close(token_jacobian(f, x)[:, 2, :, 5], difference, 2e-3)


def test_token_jacobian_vanishes_ahead(model, stream):
    blocks = token_jacobian(layer_span(model), stream[0])
    ahead = np.triu(np.ones((7, 7), bool), 1)
    assert not np.any(np.asarray(blocks)[ahead])
    assert np.all(np.linalg.norm(np.asarray(blocks)[~ahead], axis=(1, 2)) > 0)


def test_token_jacobian_chains_over_layers(model, stream):
    first = token_jacobian(layer_span(model, 0, 1), stream[0])
    second = token_jacobian(layer_span(model, 1, 2), stream[1])
    both = token_jacobian(layer_span(model, 0, 2), stream[0])
    assert_close(jnp.einsum("ikab,kjbc->ijac", second, first), both, 1e-5)


def test_token_jacobian_rows_and_columns_select(model, stream):
    f = layer_span(model, 1, 2)
    whole = token_jacobian(f, stream[1])
    part = token_jacobian(f, stream[1], rows=[-1], columns=[0, 3])
    assert_close(part, whole[jnp.array([6])][:, jnp.array([0, 3])], 1e-6)


@pytest.mark.parametrize("memory_limit", [1, 20_000, 2**30])
def test_jacobian_norms_equal_the_blocks(model, stream, memory_limit):
    f = layer_span(model, 0, 2)
    norms = jacobian_norms(f, stream[0], memory_limit=memory_limit)
    blocks = token_jacobian(f, stream[0])
    assert_close(norms, jnp.linalg.norm(blocks, axis=(2, 3)), 1e-5)


def test_jacobian_norms_by_probes_converge(model, stream):
    f = layer_span(model, 0, 2)
    exact = jacobian_norms(f, stream[0])
    estimate = jacobian_norms(f, stream[0], probes=4096, key=jax.random.key(1))
    lower = np.tril_indices(7)
    ratio = np.asarray(estimate)[lower] / np.asarray(exact)[lower]
    # the square's relative variance is at most 2 / probes: five deviations of a norm
    assert np.max(np.abs(ratio - 1)) < 5 * (2 / 4096) ** 0.5 / 2


def test_jacobian_norms_compile_once_for_equal_spans(model, stream):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def norms(f, x):
        return jacobian_norms(f, x)

    chex.clear_trace_counter()
    norms(layer_span(model, 0, 1), stream[0])
    norms(layer_span(model, 1, 2), stream[1])


def test_jacobian_takes_any_function():
    norms = jacobian_norms(lambda x: jnp.cumsum(x, axis=0), jnp.ones((3, 4)))
    chex.assert_trees_all_close(norms, 2 * jnp.tril(jnp.ones((3, 3))))


def test_jacobian_messages(model, stream):
    f = layer_span(model)
    with pytest.raises(ValueError, match=r"layer_span\(2, 2\): .* number of layers"):
        layer_span(model, 2, 2)
    with pytest.raises(ValueError, match=r"layer_span\(0, 4\)"):
        layer_span(model, 0, 4)
    with pytest.raises(ValueError, match=r"would return .* take jacobian_norms"):
        token_jacobian(f, stream[0], memory_limit=100)
    with pytest.raises(ValueError, match=r"columns=\[7\]: positions go from 0 to 6"):
        token_jacobian(f, stream[0], columns=[7])
    with pytest.raises(ValueError, match="probes=0: give at least 1"):
        jacobian_norms(f, stream[0], probes=0)
