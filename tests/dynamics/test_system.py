import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, quick_jit

from jmamba.dynamics import (
    ScalarSystem,
    TokenSystem,
    log_gains,
    log_velocity,
    scalar_jacobian,
    system_attention,
    vector_field,
    with_scalar_rates,
)
from jmamba_kernels.versions import enable_x64

GOLDEN = ScalarSystem(mu=-0.8, s=1.5, a=0.7)
GOLDEN_X = (0.5, -1.0, 2.0, 0.25)


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def make_system(seed=0, channels=3, states=2) -> TokenSystem:
    draw = np.random.default_rng(seed)
    normal = draw.standard_normal
    return TokenSystem(
        S_B=jnp.asarray(normal((states, channels))),
        S_C=jnp.asarray(normal((states, channels))),
        S_delta=jnp.asarray(normal((channels, channels))),
        A=jnp.asarray(-draw.uniform(0.2, 2.0, (channels, states))),
        bias=jnp.asarray(normal(channels)),
    )


def make_tokens(seed=1, length=6, channels=3):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((length, channels)))


def loop_field(system, x):
    """Sum equation (1) of the paper term by term, with numpy."""
    S_B, S_C, S_delta, A, bias = map(np.asarray, system)
    x = np.asarray(x)
    delta = np.log1p(np.exp(x @ S_delta.T + bias))
    F = np.zeros_like(x)
    for i, d in np.ndindex(x.shape):
        for j in range(i + 1):
            for n in range(len(S_B)):
                decay = np.exp(A[d, n] * delta[j + 1 : i + 1, d].sum())
                gates = (S_C[n] @ x[i]) * (S_B[n] @ x[j])
                F[i, d] += gates * delta[j, d] * decay * x[j, d]
    return F


@pytest.mark.parametrize("states", [1, 4])
def test_vector_field_equals_the_sum_of_its_terms(states):
    system, x = make_system(states=states), make_tokens()
    assert_close(vector_field(system, x), loop_field(system, x), 1e-13)


def test_attention_times_tokens_is_the_field():
    system, x = make_system(), make_tokens()
    P = system_attention(system, x)
    assert not np.any(np.triu(np.asarray(P), 1))
    assert_close(jnp.einsum("dij,jd->id", P, x), vector_field(system, x), 1e-12)


def test_scalar_rates_are_shared_by_all_states():
    system = make_system(states=4)
    mean, least = with_scalar_rates(system), with_scalar_rates(system, "min")
    for n in range(4):
        assert_close(-mean.A[:, n], jnp.mean(-system.A, axis=1), 1e-15)
        assert_close(-least.A[:, n], jnp.min(-system.A, axis=1), 1e-15)
    # with one rate per channel, only M matters and not S_B and S_C by themselves
    rotation = jnp.linalg.qr(jnp.asarray(np.random.default_rng(2).random((4, 4))))[0]
    turned = mean._replace(S_B=rotation @ mean.S_B, S_C=rotation @ mean.S_C)
    x = make_tokens()
    assert_close(vector_field(turned, x), vector_field(mean, x), 1e-13)
    assert_close(turned.M, mean.M, 1e-14)


def test_golden_field_attention_and_gains():
    x = jnp.array(GOLDEN_X)
    system = GOLDEN.as_token_system(jnp.float64)
    F = [-0.1136871006, 0.3586047999, -19.5958491078, -1.3175150761]
    G = [0.2842177515, 0.4482559999, 12.2474056924, 6.5875753806]
    rows = [
        [-9.3493418573e-2, 3.8143348438e-2, -9.7554795250, 0],
        [-6.2324107589e-3, 2.5426925105e-3, -6.5031481871e-1, -4.4906163207e-2],
    ]
    np.testing.assert_allclose(vector_field(system, x[:, None])[:, 0], F, rtol=1e-9)
    gains = jnp.exp(log_gains(GOLDEN, jnp.log(jnp.abs(x)), jnp.sign(x)))
    np.testing.assert_allclose(gains, G, rtol=1e-9)
    P = system_attention(system, x[:, None])[0, 2:]
    np.testing.assert_allclose(P, rows, rtol=3e-10)


def test_golden_jacobian_is_analytic_and_automatic():
    x = jnp.array(GOLDEN_X)
    system = GOLDEN.as_token_system(jnp.float64)
    J = scalar_jacobian(GOLDEN, x)
    diagonal = [-0.7839994085, -0.4997809629, -38.3686879452, -4.5580818656]
    np.testing.assert_allclose(jnp.diag(J), diagonal, rtol=1e-10)
    np.testing.assert_allclose(J[3, 0], -1.5257302333e-2, rtol=1e-9)
    np.testing.assert_allclose(J[2, 0], -0.22887730102, rtol=1e-10)
    automatic = jax.jacfwd(lambda x: vector_field(system, x[:, None])[:, 0])(x)
    assert_close(J, automatic, 1e-14)


@pytest.mark.parametrize("bias", [0.0, -3.0])
def test_analytic_jacobian_equals_jacfwd(bias):
    system = ScalarSystem(mu=1.3, s=-0.9, a=0.4, bias=bias)
    x = make_tokens(length=7, channels=1)[:, 0]
    field = quick_jit(jax.jacfwd(lambda w: x * log_velocity(system, w, jnp.sign(x))))
    # d(x r)/dx by hand from the log-space form: r delta_lm + x_l dr_l/dw_m / x_m
    w = jnp.log(jnp.abs(x))
    J = field(w) / x[None, :] + jnp.diag(log_velocity(system, w, jnp.sign(x)))
    assert_close(scalar_jacobian(system, x), J, 1e-13)


def test_log_velocity_equals_the_field_and_survives_extremes():
    system = ScalarSystem(mu=0.9, s=1.4, a=0.6, bias=-1.0)
    x = make_tokens(length=9, channels=1)
    rate = log_velocity(system, jnp.log(jnp.abs(x[:, 0])), jnp.sign(x[:, 0]))
    F = vector_field(system.as_token_system(jnp.float64), x)[:, 0]
    assert_close(rate * x[:, 0], F, 1e-14)
    # 1e-200 squared underflows, and so does softplus(-700)
    w = jnp.log(jnp.array([1e-200, 500.0]))
    G = log_gains(ScalarSystem(1.0, -1.4), w, jnp.ones(2))
    last = 2 * np.log(500.0) - 700.0
    np.testing.assert_allclose(G, [2 * np.log(1e-200) + np.log(np.log(2)), last])


def test_zero_tokens_stay():
    x = jnp.array([0.5, 0.0, 2.0])
    rate = log_velocity(GOLDEN, jnp.log(jnp.abs(x)), jnp.sign(x))
    F = vector_field(GOLDEN.as_token_system(jnp.float64), x[:, None])[:, 0]
    assert F[1] == 0 and np.isfinite(rate).all()
    assert_close(rate * x, F, 1e-14)


def test_system_messages():
    system, x = make_system(), make_tokens()
    with pytest.raises(ValueError, match=r"0.00 GiB \(3 channels x 6 x 6 tokens\), ov"):
        system_attention(system, x, memory_limit=100)
    with pytest.raises(ValueError, match="Unknown reduction 'max'; give 'mean' or"):
        with_scalar_rates(system, "max")
