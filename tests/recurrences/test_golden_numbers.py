"""Numbers that were computed apart, in float64, by code that is not ours.

wave(c; shape) = sin(c + 0.7 i), where i counts the entries from 0 on.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmamba import recurrences
from jmamba.attention import hidden_attention
from jmamba_kernels.versions import enable_x64

l, n, p = 6, 4, 3  # noqa: E741
sigmoid, softplus = jax.nn.sigmoid, jax.nn.softplus


def wave(c, *shape, step=0.7):
    """Return waves with axes of one text, of tokens, and of one head."""
    entries = jnp.sin(c + step * jnp.arange(float(np.prod(shape))))
    return entries.reshape(1, shape[0], 1, *shape[1:])


def measure(recurrence):
    alpha = hidden_attention(recurrence)[0, 0]
    return alpha, recurrences.run_gated(recurrence).y[0, :, 0]


def unit(x):
    return x / jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-6)


@pytest.fixture(autouse=True)
def in_float64():
    with enable_x64():
        yield


def keys_and_values():
    return wave(0.1, l, n), wave(0.2, l, n, step=0.9), wave(0.3, l, p)


def is_near(value, expected):
    return np.isclose(float(value), expected, rtol=1e-9, atol=0)


def test_gated_delta_net():
    q, k, v = keys_and_values()
    beta, log_decay = sigmoid(wave(0.4, l)), -softplus(wave(0.5, l))
    alpha, y = measure(recurrences.gated_delta_net(q, k, v, beta, log_decay))
    assert is_near(alpha[5, 0], 0.000818907248526)
    assert is_near(y[5, 2], -0.111797402576)
    assert is_near(alpha.sum(), -0.246126946053)
    alpha, _ = measure(recurrences.delta_net(q, k, v, 2 * beta))
    assert is_near(alpha.sum(), -1.40095040889)


def test_kimi_delta_attention():
    q, k, v = keys_and_values()
    beta, log_decay = sigmoid(wave(0.4, l)), -softplus(wave(0.6, l, n))
    alpha, _ = measure(recurrences.kimi_delta_attention(q, k, v, beta, log_decay))
    assert is_near(alpha[5, 0], 0.00206236847532)
    assert is_near(alpha.sum(), -0.302364070156)


def test_gated_linear_attention_and_rwkv6():
    q, k, v = keys_and_values()
    q, k, log_decay = unit(q), unit(k), -softplus(wave(0.6, l, n))
    alpha, _ = measure(recurrences.gated_linear_attention(q, k, v, log_decay))
    assert is_near(alpha.sum(), -0.476271136931)
    bonus = wave(0.7, n)[0, :, 0][None]
    alpha, _ = measure(recurrences.rwkv6(q / 2, k, v, log_decay, bonus))
    assert is_near(alpha.sum(), 0.538701600193)


def test_rwkv7():
    q, k, v = keys_and_values()
    log_decay = -softplus(wave(0.6, l, n))
    recurrence = recurrences.rwkv7(
        unit(q) / 2, log_decay, wave(0.9, l, n), v, k, sigmoid(wave(0.8, l, n))
    )
    alpha, y = measure(recurrence)
    assert is_near(alpha[5, 0], 0.00381362161309)
    assert is_near(y[5, 2], -0.251058225542)


def test_rwkv4():
    keys, values = wave(0.1, l, n)[:, :, 0], wave(0.2, l, n)[:, :, 0]
    decay, first = wave(0.3, n)[0, :, 0], wave(0.4, n)[0, :, 0]
    y = recurrences.run_gated(recurrences.rwkv4(keys, values, decay, first)).y
    assert is_near(y[0, 5, 3, 0], 0.314763409441)
    assert is_near(y.sum(), 9.72651085124)


def test_mlstm():
    alpha, _ = measure(
        recurrences.mlstm(
            wave(0.1, l, n),
            wave(0.2, l, n),
            wave(0.3, l, p),
            wave(0.3, l),
            2 + wave(0.4, l),
        )
    )
    assert is_near(alpha[5, 0], 0.260262040633)
    assert is_near(alpha[3].sum(), 0.559208051417)
    assert np.allclose(alpha[:3].sum(-1), 1, rtol=1e-14)


def test_rg_lru():
    u = wave(0.6, l, n)[:, :, 0]
    blocks = u.reshape(1, l, 2, 2)

    def gate(weight, bias):
        weight = jnp.sin(weight + 0.7 * jnp.arange(8.0)).reshape(2, 2, 2)
        bias = jnp.sin(bias + 0.7 * jnp.arange(4.0)).reshape(2, 2)
        made = jnp.einsum("blhi,hij->blhj", blocks, weight) + bias[None, None]
        return sigmoid(made).reshape(u.shape)

    Lambda = wave(0.5, n)[0, :, 0] - 4
    recurrence = recurrences.rg_lru(u, gate(0.1, 0.2), gate(0.3, 0.4), Lambda)
    y = recurrences.run_gated(recurrence).y
    assert is_near(y[0, 5, 2, 0], -0.20499202166)
    assert is_near(y.sum(), 3.64653363956)
