import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, selective_arrays
from hypothesis import strategies as st

import jmamba
from jmamba.attention import (
    REDUCTIONS,
    channel_attention,
    hidden_attention,
    inner_attention,
    reduced_attention,
    top_channels,
)
from jmamba.dynamics import memory_horizons, sequence_exponents
from jmamba.layers import run_recurrence
from jmamba.ops import selective_scan
from jmamba.types import Recurrence

pytestmark = pytest.mark.usefixtures("optimised_programs")


def draw_recurrence(seed=0, batch=2, length=11, channels=5, states=3) -> Recurrence:
    draw = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(draw.standard_normal(shape), jnp.float32)

    return Recurrence(
        u=normal(batch, length, channels),
        delta=jax.nn.softplus(normal(batch, length, channels)),
        A=-jnp.exp(normal(channels, states)),
        B=normal(batch, length, 1, states),
        C=normal(batch, length, 1, states),
        D=normal(channels),
        z=normal(batch, length, channels),
    )


def attention_loop(recurrence: Recurrence) -> np.ndarray:
    """The definition, with a running product of decays, in float64."""
    delta, A, B, C = selective_arrays(recurrence)
    b, length, d = delta.shape
    alpha = np.zeros((b, d, length, length))
    for i in range(length):
        for j in range(i + 1):
            decay = np.ones((b, d, A.shape[1]))
            for k in range(j + 1, i + 1):
                decay *= np.exp(delta[:, k, :, None] * A)
            gates = C[:, i, None] * decay * delta[:, j, :, None] * B[:, j, None]
            alpha[:, :, i, j] = gates.sum(-1)
    return alpha


@hypothesis.given(
    seed=st.integers(0, 2**16), length=st.integers(1, 12), states=st.integers(1, 5)
)
def test_hidden_attention_equals_the_definition(seed, length, states):
    recurrence = draw_recurrence(seed, length=length, states=states)
    alpha = hidden_attention(recurrence)
    chex.assert_shape(alpha, (2, 5, length, length))
    assert_close(alpha, attention_loop(recurrence), 2e-6)


@hypothesis.given(seed=st.integers(0, 2**16), length=st.integers(1, 40))
def test_hidden_attention_times_u_is_the_scan(seed, length):
    recurrence = draw_recurrence(seed, length=length)
    y, _ = run_recurrence(recurrence)
    seen = jnp.einsum("bdij,bjd->bid", hidden_attention(recurrence), recurrence.u)
    D = jnp.asarray(recurrence.D)[None, None]
    assert_close(seen + D * recurrence.u, y, 2e-6)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 33, 70])
def test_whole_attention_equals_its_rows(length):
    """Halving, at lengths around its boundaries, with steps from tiny to huge."""
    recurrence = draw_recurrence(length, batch=1, length=length, channels=3)
    scale = 10 ** jnp.linspace(-3, 1.5, 3)
    recurrence = recurrence._replace(delta=recurrence.delta * scale[None, None])
    rows = hidden_attention(recurrence, rows=range(length))
    whole = hidden_attention(recurrence)
    for d in range(3):
        assert_close(whole[:, d], rows[:, d], 2e-6)
    assert_close(rows, attention_loop(recurrence), 2e-6)


def test_whole_attention_keeps_precision_in_long_texts():
    recurrence = draw_recurrence(batch=1, length=700, channels=2)
    recurrence = recurrence._replace(A=jnp.array([[-16.0, -1.0, -0.01]] * 2))
    assert_close(hidden_attention(recurrence), attention_products(recurrence), 3e-6)


def attention_products(recurrence) -> np.ndarray:
    """The definition in float64, decays multiplied row after row."""
    delta, A, B, C = selective_arrays(recurrence)
    length = delta.shape[1]
    rows, kernel = [], np.zeros((length, *A.shape))
    for i in range(length):
        kernel = kernel * np.exp(delta[0, i, :, None] * A)
        kernel[i] = delta[0, i, :, None] * B[0, i]
        rows.append((kernel * C[0, i]).sum(-1).T)
    return np.stack(rows, axis=1)[None]


def test_hidden_attention_is_the_jacobian_with_frozen_selectivity():
    recurrence = draw_recurrence(batch=1)

    def scan_channels(u):
        return run_recurrence(recurrence._replace(u=u[None], D=None)).y[0]

    jacobian = jax.jacfwd(scan_channels)(recurrence.u[0])  # i d j d
    alpha = jnp.einsum("idjd->dij", jacobian)
    assert_close(hidden_attention(recurrence)[0], alpha, 2e-6)


def test_hidden_attention_of_a_trained_shape_has_no_weight_ahead():
    alpha = hidden_attention(draw_recurrence())
    assert not np.any(np.triu(np.asarray(alpha), 1))


def test_hidden_attention_rows_and_channels_select():
    recurrence = draw_recurrence()
    whole = hidden_attention(recurrence)
    part = hidden_attention(recurrence, channels=[-1, 2], rows=[3, -1])
    expected = whole[:, jnp.array([4, 2])][:, :, jnp.array([3, 10])]
    assert_close(part, expected, 2e-6)


def test_channel_attention_vmaps_over_channels():
    recurrence = draw_recurrence(batch=1)
    rows = jnp.arange(11)
    over = jax.vmap(channel_attention, in_axes=(1, 0, None, None, None))
    alpha = over(
        recurrence.delta[0],
        recurrence.A,
        recurrence.B[0, :, 0],
        recurrence.C[0, :, 0],
        rows,
    )
    assert_close(alpha, hidden_attention(recurrence)[0], 2e-6)


def test_hidden_attention_keeps_precision_in_long_texts():
    length = 16_384
    draw = np.random.default_rng(0)
    delta = draw.uniform(0.01, 0.2, length).astype(np.float32)
    A = np.array([-16.0, -0.5, -0.01], np.float32)
    ones = np.ones((length, 3), np.float32)
    rows = np.array([length - 1, length // 2])
    alpha = channel_attention(*map(jnp.asarray, (delta, A, ones, ones, rows)))
    S = np.cumsum(delta.astype(np.float64))
    elapsed = S[rows][:, None] - S
    elapsed[elapsed < 0] = np.inf  # ahead: no weight
    decay = np.exp(elapsed[:, :, None] * A.astype(np.float64))
    expected = decay.sum(-1) * delta
    assert_close(alpha, expected, 2e-6)
    near = slice(length - 40, None)  # where the fast states still count
    np.testing.assert_allclose(alpha[0, near], expected[0, near], rtol=1e-5)


@pytest.mark.parametrize(
    ("reduction", "at_once"),
    [*((name, 2) for name in REDUCTIONS), *(("mean_abs", k) for k in (1, 5, 64))],
)
def test_reduced_attention_equals_reducing_the_matrices(reduction, at_once):
    recurrence = draw_recurrence()
    alpha = np.asarray(hidden_attention(recurrence), np.float64)
    expected = {
        "mean": alpha.mean(1),
        "mean_abs": np.abs(alpha).mean(1),
        "max": alpha.max(1),
        "min": alpha.min(1),
        "product": alpha.prod(1),
        "mean_positive": np.maximum(alpha, 0).mean(1),
    }[reduction]
    reduced = reduced_attention(recurrence, reduction, channels_at_once=at_once)
    assert_close(reduced, expected, 2e-6)
    rows = reduced_attention(recurrence, reduction, rows=[-1], channels_at_once=at_once)
    assert_close(rows, reduced[:, -1:], 2e-6)


def test_reduced_attention_holds_no_matrix_per_channel():
    length, channels = 64, 48
    recurrence = draw_recurrence(batch=1, length=length, channels=channels)
    run = jax.jit(lambda recurrence: reduced_attention(recurrence, channels_at_once=2))
    memory = run.lower(recurrence).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < channels * length * length * 4 / 4


@pytest.mark.parametrize("length", [1, 8, 9, 23])
def test_mean_of_whole_matrices_equals_its_rows(length):
    """Products of whole matrices, at lengths around their blocks, any step sizes."""
    recurrence = draw_recurrence(length, length=length)
    scale = 10 ** jnp.linspace(-3, 1.5, 5)
    recurrence = recurrence._replace(delta=recurrence.delta * scale[None, None])
    expected = attention_loop(recurrence).mean(1)
    assert_close(reduced_attention(recurrence, "mean"), expected, 2e-6)
    odd = reduced_attention(recurrence, "mean", channels_at_once=3)
    assert_close(odd, expected, 2e-6)


def test_mean_of_whole_matrices_keeps_precision_in_long_texts():
    recurrence = draw_recurrence(batch=1, length=700, channels=2)
    recurrence = recurrence._replace(A=jnp.array([[-16.0, -1.0, -1e-4]] * 2))
    expected = attention_products(recurrence).mean(1)
    assert_close(reduced_attention(recurrence, "mean"), expected, 3e-6)


def test_gradients_of_the_mean_are_those_of_the_matrices():
    """T14, through products of whole matrices: against autodiff of single channels."""
    recurrence = draw_recurrence(length=10)

    def through(attention):
        def total(parts):
            alpha = attention(
                recurrence._replace(delta=parts[0], A=parts[1], B=parts[2])
            )
            return jnp.sum(jnp.sin(3 * alpha))

        return jax.jit(jax.grad(total))((recurrence.delta, recurrence.A, recurrence.B))

    found = through(
        lambda recurrence: reduced_attention(recurrence, "mean", channels_at_once=3)
    )
    expected = through(
        lambda recurrence: jnp.mean(hidden_attention(recurrence), axis=1)
    )
    assert_close(found, expected, 1e-5)


def test_hidden_attention_is_differentiable():
    recurrence = draw_recurrence(batch=1, length=6)

    def total(recurrence, attention):
        return jnp.sum(jnp.sin(attention(recurrence)))

    def dense(recurrence):  # autodiff of the recurrence, in u only, gives the matrix
        def scan_channels(u):
            return selective_scan(
                u[None],
                recurrence.delta,
                recurrence.A,
                recurrence.B,
                recurrence.C,
                implementation="reference",
            ).y[0]

        return jnp.einsum("idjd->dij", jax.jacfwd(scan_channels)(recurrence.u[0]))[None]

    gradients = jax.grad(total)(recurrence, hidden_attention)
    expected = jax.grad(total)(recurrence, dense)
    for name in ("delta", "A", "B", "C"):
        assert_close(getattr(gradients, name), getattr(expected, name), 1e-5)


def test_hidden_attention_compiles_once():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def last_row(recurrence):
        return hidden_attention(recurrence, rows=[-1])

    chex.clear_trace_counter()
    for seed in (0, 1):
        last_row(draw_recurrence(seed))


def test_hidden_attention_of_a_model_rebuilds_its_mixer():
    config = jmamba.MambaConfig(vocab_size=32, d_model=16, num_layers=2)
    model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
    t = jmamba.trace(model, jnp.array([[1, 2, 3, 4, 5]]))
    recurrence = t.layer(1)
    seen = jnp.einsum("bdij,bjd->bid", hidden_attention(recurrence), recurrence.u)
    gated = (seen + recurrence.D[None, None] * recurrence.u) * jax.nn.silu(recurrence.z)
    out = model.layer(1).mixer.out_proj(gated)
    assert_close(t.residual_in[1] + out, t.residual_out[1], 2e-6)


def test_hidden_attention_messages():
    recurrence = draw_recurrence()
    with pytest.raises(ValueError, match=r"rows=\[11\]: positions go from 0 to 10"):
        hidden_attention(recurrence, rows=[11])
    with pytest.raises(ValueError, match=r"channels=\[\]: .* at least one"):
        hidden_attention(recurrence, channels=[])
    with pytest.raises(ValueError, match=r"would return .* reduced_attention"):
        hidden_attention(recurrence, memory_limit=100)
    with pytest.raises(
        ValueError, match="Unknown reduction 'median'; give one of mean"
    ):
        reduced_attention(recurrence, "median")
    with pytest.raises(ValueError, match=r"rows=\[-12\]"):
        reduced_attention(recurrence, rows=[-12])
    with pytest.raises(ValueError, match="2 texts x 11 rows x 11 tokens.*rows="):
        reduced_attention(recurrence, memory_limit=100)


@pytest.mark.parametrize("empty", "bldn")
@pytest.mark.parametrize("measure", [
    hidden_attention, inner_attention, reduced_attention,
])  # fmt: skip
def test_empty_axes_are_refused(measure, empty):
    b, l, d, n = (0 if axis == empty else 2 for axis in "bldn")  # noqa: E741
    u, gates = jnp.ones((b, l, d)), jnp.ones((b, l, 1, n))
    recurrence = Recurrence(u, u, -jnp.ones((d, n)), gates, gates)
    with pytest.raises(ValueError, match=f"attention: {empty}=0 is an empty axis"):
        measure(recurrence)


@pytest.mark.parametrize("measure", [
    hidden_attention, inner_attention, reduced_attention, lambda r: top_channels(r, 1),
    sequence_exponents, memory_horizons,
])  # fmt: skip
def test_parameters_that_are_not_finite_are_refused(measure):
    recurrence = draw_recurrence()
    broken = recurrence._replace(
        delta=recurrence.delta.at[0, 2].set(jnp.inf), A=recurrence.A * jnp.nan
    )
    with pytest.raises(ValueError, match="^delta, A hold values that are not finite"):
        measure(broken)
    jax.jit(measure).lower(broken)  # nothing is known of numbers while tracing
