import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_models import exact_trace
from helpers import assert_close

from jmamba.dynamics import (
    alignment_matrix,
    centred_alignment,
    fit_decay,
    leaky_average,
    measure_collapse,
    measure_spread,
    memory_horizons,
    sequence_exponents,
    smoothing_bound,
)
from jmamba.ops import selective_scan
from jmamba_kernels.versions import enable_x64


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def test_sequence_exponents_are_those_of_the_state():
    recurrence = exact_trace().layer(2)

    def run(initial_state):
        state = initial_state[None]
        one = jax.tree.map(
            lambda v: v[:1],
            (recurrence.u, recurrence.delta, recurrence.B, recurrence.C),
        )
        u, delta, B, C = one
        out = selective_scan(u, delta, recurrence.A, B, C, initial_state=state)
        return out.last_state[0]

    # the state's Jacobian over all tokens is diagonal: push a vector of ones
    zero = jnp.zeros(recurrence.A.shape)
    _, growth = jax.jvp(run, (zero,), (jnp.ones_like(zero),))
    exponents = sequence_exponents(recurrence)
    np.testing.assert_allclose(exponents[0], jnp.log(growth) / 5, rtol=1e-12)
    assert np.all(exponents < 0)
    np.testing.assert_allclose(memory_horizons(recurrence), -1 / exponents, rtol=1e-14)


def test_decay_of_a_constant_recurrence_is_its_logarithm():
    a, length = 0.83, 12
    ones = jnp.ones((1, length, 1))
    A = jnp.full((1, 1), jnp.log(a))  # delta = 1: A_bar = a

    def f(u):
        return selective_scan(u[None], ones, A, ones, ones).y[0]

    J = jax.jacfwd(f)(ones[0])[:, 0, :, 0]
    decay = fit_decay(J)
    np.testing.assert_allclose(decay.kappa, -np.log(a), rtol=1e-12)
    np.testing.assert_allclose(decay.intercept, 0.0, atol=1e-12)
    np.testing.assert_allclose(decay.curve, np.arange(length) * np.log(a), atol=1e-12)


def test_decay_is_least_squares_over_the_pairs_that_are_there():
    draw = np.random.default_rng(0)
    norms = np.tril(np.exp(draw.standard_normal((7, 7))))
    norms[5, 2] = 0.0
    i, j = np.nonzero(np.tril(norms, -1))
    slope, intercept = np.polyfit(i - j, np.log(norms[i, j]), 1)
    decay = fit_decay(jnp.asarray(norms))
    np.testing.assert_allclose([decay.kappa, decay.intercept], [-slope, intercept])
    np.testing.assert_allclose(decay.curve[6], np.log(norms[6, 0]))
    assert fit_decay(jnp.eye(3)).curve.tolist() == [0.0, -np.inf, -np.inf]


def test_smoothing_bound_holds_and_is_met():
    draw = np.random.default_rng(1)
    A_bar = jnp.asarray(draw.uniform(0, 1, (8, 500)) ** draw.uniform(0.1, 3, 500))
    x = jnp.asarray(draw.standard_normal((8, 500)))
    h = leaky_average(A_bar, x)
    state = np.array(x[0])
    for t in range(1, 8):
        state = A_bar[t] * state + (1 - A_bar[t]) * x[t]
    assert_close(h[-1], state, 1e-14)
    apart = jnp.max(h, axis=0) - jnp.min(h, axis=0)
    bound = smoothing_bound(A_bar, x)
    assert np.all(apart <= bound * (1 + 1e-12))
    np.testing.assert_allclose(measure_spread(h[:, :1]), apart[0])
    # one step from an extreme to the other, all later ones there, meets it
    x = jnp.ones((8, 1)).at[0].set(0.0)
    h = leaky_average(jnp.full((8, 1), 0.3), x)
    np.testing.assert_allclose(h[-1] - h[0], smoothing_bound(jnp.full((8, 1), 0.3), x))


def test_collapse_of_made_tokens():
    draw = np.random.default_rng(2)
    x = draw.standard_normal((4, 6, 5))
    ours = measure_collapse(jnp.asarray(x))
    for b in range(4):
        s = np.linalg.svd(x[b], compute_uv=False) ** 2
        p = s / s.sum()
        np.testing.assert_allclose(
            ours.effective_rank[b], np.exp(-(p * np.log(p)).sum())
        )
        np.testing.assert_allclose(ours.stable_rank[b], s.sum() / s.max())
        unit = x[b] / np.linalg.norm(x[b], axis=1, keepdims=True)
        cosines = (unit @ unit.T)[np.triu_indices(6, 1)]
        np.testing.assert_allclose(ours.cosine[b], cosines.mean(), rtol=1e-10)
        rest = x[b] - x[b].mean(0)
        np.testing.assert_allclose(
            ours.residual[b], np.linalg.norm(rest) / np.linalg.norm(x[b])
        )
        np.testing.assert_allclose(ours.variance[b], (rest**2).sum() / 6)
    line = jnp.outer(jnp.array([1.0, -2.0, 3.0]), jnp.array([1.0, 1.0]))
    assert abs(float(measure_collapse(line).effective_rank) - 1) < 1e-12
    orthogonal = measure_collapse(2 * jnp.eye(4))
    np.testing.assert_allclose(orthogonal.effective_rank, 4.0)
    np.testing.assert_allclose(orthogonal.cosine, 0.0, atol=1e-15)


def test_alignment_ignores_rotation_scale_and_shift():
    draw = np.random.default_rng(3)
    x = jnp.asarray(draw.standard_normal((9, 4)))
    Q = jnp.asarray(np.linalg.qr(draw.standard_normal((4, 4)))[0])
    np.testing.assert_allclose(centred_alignment(x, 3 * x @ Q + 1.0), 1.0)
    y = jnp.asarray(draw.standard_normal((9, 7)))
    H = np.eye(9) - 1 / 9
    K, L = H @ (x @ x.T) @ H, H @ (y @ y.T) @ H
    kernel = np.trace(K @ L) / np.sqrt(np.trace(K @ K) * np.trace(L @ L))
    np.testing.assert_allclose(centred_alignment(x, y), kernel)
    both = alignment_matrix(jnp.stack([x, x[::-1]]))
    np.testing.assert_allclose(both, both.T)
    np.testing.assert_allclose(jnp.diagonal(both), 1.0)
    np.testing.assert_allclose(both[0, 1], centred_alignment(x, x[::-1]))
