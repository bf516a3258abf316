"""Gated recurrences: matrices, rows and reductions against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

from jmamba import recurrences
from jmamba.attention import hidden_attention, reduced_attention, top_channels
from jmamba.layers import run_recurrence
from jmamba.types import OF_HEADS
from jmamba_kernels.versions import enable_x64

b, l, h, n, p = 2, 6, 3, 4, 2  # noqa: E741


def draws(seed):
    draw = np.random.default_rng(seed)
    return lambda *shape: jnp.asarray(draw.standard_normal(shape))


def heads(make):
    """Return queries, keys and values of every head."""
    return make(b, l, h, n), make(b, l, h, n), make(b, l, h, p)


def gates(make, *shape):
    return jax.nn.sigmoid(make(*shape))


FAMILIES = {
    "gated_linear_attention": lambda m: recurrences.gated_linear_attention(
        *heads(m), jnp.log(gates(m, b, l, h, n))
    ),
    "hgrn2": lambda m: recurrences.hgrn2(
        m(b, l, h, n), gates(m, b, l, h, n), m(b, l, h, p)
    ),
    "rg_lru": lambda m: recurrences.rg_lru(
        m(b, l, h), gates(m, b, l, h), gates(m, b, l, h), m(h)
    ),
    "rwkv4": lambda m: recurrences.rwkv4(m(b, l, h), m(b, l, h), m(h), m(h)),
    "rwkv6": lambda m: recurrences.rwkv6(*heads(m), -jnp.exp(m(b, l, h, n)), m(h, n)),
    "rwkv7": lambda m: recurrences.rwkv7(
        m(b, l, h, n),
        -0.6 * gates(m, b, l, h, n),
        m(b, l, h, n),
        m(b, l, h, p),
        m(b, l, h, n),
        gates(m, b, l, h, n),
    ),
    "mlstm": lambda m: recurrences.mlstm(*heads(m), 3 * m(b, l, h), m(b, l, h)),
    "delta_net": lambda m: recurrences.delta_net(*heads(m), gates(m, b, l, h)),
    "gated_delta_net": lambda m: recurrences.gated_delta_net(
        *heads(m), gates(m, b, l, h), -jnp.exp(m(b, l, h))
    ),
    "kimi_delta_attention": lambda m: recurrences.kimi_delta_attention(
        *heads(m), gates(m, b, l, h), -jnp.exp(m(b, l, h, n))
    ),
}


@pytest.fixture(scope="module", params=FAMILIES)
def found(request):
    """A recurrence in float64, its matrices, and its matrices by loops."""
    with enable_x64():
        recurrence = FAMILIES[request.param](draws(3))
        return recurrence, hidden_attention(recurrence), by_loops(recurrence)


def by_loops(recurrence) -> np.ndarray:
    """Return alpha[i, j] = w[j] q[i]^T G[i] ... G[j+1] k[j] as it is written."""
    r = jax.tree.map(np.asarray, recurrence)
    batch, length, count, states = r.keys.shape
    alpha = np.zeros((batch, count, length, length))
    for s, head, i, j in np.ndindex(batch, count, length, length):
        if j > i:
            continue
        at = s, slice(None), head
        weight = 1.0 if r.log_weights is None else np.exp(r.log_weights[at][j])
        key = r.keys[at][j]
        if r.bonus is not None and i == j:
            key = r.bonus[head] * key
        last = i if r.bonus is None else i - 1
        for t in range(j + 1, last + 1):
            key = np.exp(r.log_decay[at][t]) * key
            if r.erasure is not None:
                writes, reads = (x[at] for x in r.erasure)
                key = key - writes[t] * (reads[t] @ key)
        alpha[s, head, i, j] = weight * (r.queries[at][i] @ key)
    if r.floor is not None:
        sums = np.abs(alpha.sum(-1, keepdims=True))
        alpha = alpha / np.maximum(sums, r.floor[:, None, None])
    return alpha


def test_matrices_equal_the_definition(found):
    _, alpha, expected = found
    assert_close(alpha, expected, 1e-12)


def test_matrices_times_values_are_the_recurrence(found):
    recurrence, alpha, _ = found
    with enable_x64():
        y = recurrences.run_gated(recurrence).y
        seen = jnp.einsum("bhij,bjhp->bihp", alpha, recurrence.values)
    assert_close(y, seen, 1e-12)


def test_rows_and_heads_are_those_of_the_matrices(found):
    recurrence, alpha, _ = found
    with enable_x64():
        rows = hidden_attention(recurrence, rows=[-1, 2], channels=[2, 0])
    assert_close(rows, alpha[:, jnp.array([2, 0])][:, :, jnp.array([-1, 2])], 1e-14)


@pytest.mark.parametrize("reduction", ["mean", "mean_abs", "max"])
def test_reductions_are_those_of_the_matrices(found, reduction):
    recurrence, alpha, _ = found
    reduce = {
        "mean": lambda a: a.mean(1),
        "mean_abs": lambda a: abs(a).mean(1),
        "max": lambda a: a.max(1),
    }
    with enable_x64():
        reduced = reduced_attention(recurrence, reduction)
    assert_close(reduced, reduce[reduction](np.asarray(alpha)), 1e-14)


def test_top_heads_are_those_of_greatest_weight(found):
    recurrence, alpha, _ = found
    weights = abs(np.asarray(alpha)).sum((2, 3))
    with enable_x64():
        best = np.asarray(top_channels(recurrence, 2))
        reduced = reduced_attention(recurrence, "mean", top=2)
    greatest = -np.sort(-weights, axis=1)[:, :2]
    assert_close(np.take_along_axis(weights, best, axis=1), greatest, 1e-14)
    chosen = np.take_along_axis(np.asarray(alpha), best[:, :, None, None], axis=1)
    assert_close(reduced, chosen.mean(1), 1e-14)


def test_a_state_goes_on(found):
    recurrence = found[0]
    if recurrence.floor is not None:
        with pytest.raises(ValueError, match="no state"):
            recurrences.run_gated(recurrence, jnp.zeros(1))
        return

    def part(start, stop):
        return recurrence._replace(
            **{
                name: x[:, start:stop]
                for name, x in recurrence._asdict().items()
                if x is not None and name not in OF_HEADS
            }
        )

    with enable_x64():
        whole = recurrences.run_gated(recurrence)
        first = recurrences.run_gated(part(0, 4))
        second = recurrences.run_gated(part(4, l), first.last_state)
    assert_close(second.y, whole.y[:, 4:], 1e-14)
    assert_close(second.last_state, whole.last_state, 1e-14)


def test_gradients_go_through_matrices_and_recurrence(found):
    recurrence = found[0]
    with enable_x64():

        def by_matrices(recurrence):
            alpha = hidden_attention(recurrence)
            y = jnp.einsum("bhij,bjhp->bihp", alpha, recurrence.values)
            return jnp.sum(jnp.sin(y))

        def by_recurrence(recurrence):
            return jnp.sum(jnp.sin(recurrences.run_gated(recurrence).y))

        one = jax.jit(jax.grad(by_matrices))(recurrence)
        other = jax.jit(jax.grad(by_recurrence))(recurrence)
    for name, expected in other._asdict().items():
        if expected is not None:  # queries of equal keys matter to nothing: zero
            assert np.allclose(getattr(one, name), expected, rtol=1e-9, atol=1e-12)


def test_row_laws():
    with enable_x64():
        make = draws(5)
        rows = hidden_attention(FAMILIES["rwkv4"](make))
        assert_close(rows.sum(-1), np.ones((b, h, l)), 1e-14)
        forget = gates(make, b, l, h, 1)
        ones = jnp.ones((b, l, h, 1))
        kept = hidden_attention(recurrences.hgrn2(ones, forget, ones)).sum(-1)
        expected = 1 - np.cumprod(np.asarray(forget)[..., 0], axis=1)
        assert_close(kept, np.moveaxis(expected, 1, 2), 1e-14)
        keys = make(b, l, h, n)
        written = recurrences.gated_delta_net(
            keys, keys, keys, jnp.ones((b, l, h)), -jnp.exp(make(b, l, h))
        )
        alpha = hidden_attention(written) * n**0.5  # each key finds what it wrote
        # keys are divided by sqrt(|k|^2 + 1e-6), which leaves them that much shorter
        assert_close(alpha, np.broadcast_to(np.eye(l), alpha.shape), 1e-5)


def test_rg_lru_keeps_the_variance():
    with enable_x64():
        make = draws(6)
        r, Lambda = gates(make, b, l, h), make(h)
        ones = jnp.ones((b, l, h))
        alpha = hidden_attention(recurrences.rg_lru(ones, ones, r, Lambda))
    assert_close((np.asarray(alpha) ** 2).sum(-1), np.ones((b, h, l)), 1e-14)


def test_weights_do_not_overflow():
    keys = jnp.full((1, 4, 1), 500.0).at[0, 0].set(-500.0)
    values = jnp.arange(4.0)[None, :, None]
    zeros = jnp.zeros(1)
    recurrence = recurrences.rwkv4(keys, values, zeros, zeros)
    alpha = hidden_attention(recurrence)
    assert bool(jnp.all(jnp.isfinite(alpha)))
    assert_close(alpha.sum(-1), np.ones((1, 1, 4)), 1e-6)
    y = recurrences.run_gated(recurrence).y
    assert_close(y[..., 0], jnp.einsum("bhij,bjh->bih", alpha, values), 1e-6)


@pytest.mark.parametrize("name", ["retention", "lightning_attention"])
def test_constant_decays_are_ordinary_recurrences(name):
    with enable_x64():
        q, k, v = heads(draws(7))
        where = {"layer": 1, "num_layers": 3} if name.startswith("light") else {}
        recurrence = getattr(recurrences, name)(q, k, v, **where)
        alpha = hidden_attention(recurrence)
        y = run_recurrence(recurrence).y
    if where:
        rate = 2.0 ** (-8 * np.arange(1, h + 1) / h) * (1 - 1 / (2 + 1e-5) + 1e-5)
        scale, log_decay = 1.0, -rate
    else:
        scale, log_decay = n**-0.5, np.log(1 - 2.0 ** -(5 + np.arange(h)))
    ages = np.arange(l)[:, None] - np.arange(l)
    kept = np.tril(np.exp(log_decay[:, None, None] * ages))
    expected = scale * np.einsum("bihn,bjhn->bhij", q, k) * kept
    assert_close(alpha, expected, 1e-13)
    seen = np.einsum("bhij,bjhp->bihp", expected, v).reshape(b, l, h * p)
    assert_close(y, seen, 1e-12)


@pytest.mark.parametrize("wrong", ["fold", "rows", "channels", "memory", "nan"])
def test_what_cannot_be_asked_is_said(wrong):
    recurrence = FAMILIES["delta_net"](draws(8))
    asked = {
        "fold": ({"fold": ("D",)}, r"give fold=\(\)"),
        "rows": ({"rows": [6]}, "positions go from 0 to 5"),
        "channels": ({"channels": [3]}, "positions go from 0 to 2"),
        "memory": ({"memory_limit": 100}, "over the limit"),
        "nan": ({}, "values hold values that are not finite"),
    }
    options, message = asked[wrong]
    if wrong == "nan":
        recurrence = recurrence._replace(values=recurrence.values * jnp.nan)
    with pytest.raises(ValueError, match=message):
        hidden_attention(recurrence, **options)


def test_weights_beside_decays_of_states_are_refused():
    recurrence = FAMILIES["gated_linear_attention"](draws(9))
    recurrence = recurrence._replace(log_weights=jnp.zeros((b, l, h)))
    with pytest.raises(ValueError, match="one decay per head"):
        recurrences.run_gated(recurrence)
