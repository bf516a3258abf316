"""The delta rule in chunks against its definition, token by token."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, quick_jit

from jmamba import recurrences
from jmamba.recurrences.chunks import invert_unit_lower
from jmamba_kernels.versions import enable_x64

b, l, h, n, p = 2, 11, 2, 3, 2  # noqa: E741
SEGMENTS = jnp.array([[0] * 3 + [1] * 2 + [4] * 6, [2] * 8 + [0] * 3])


def draws(seed, dtype=jnp.float64):
    draw = np.random.default_rng(seed)
    return lambda *shape: jnp.asarray(draw.standard_normal(shape), dtype)


def rule(make, l=l):  # noqa: E741
    """Return a gated delta rule whose states may turn, and a state."""
    q, k, v = make(b, l, h, n), make(b, l, h, n), make(b, l, h, p)
    beta, log_decay = 2 * jax.nn.sigmoid(make(b, l, h)), -jnp.exp(make(b, l, h))
    made = recurrences.gated_delta_net(q, k, v, beta, log_decay)
    return made, make(b, h, n, p)


def decay(make):
    """Return what only decays, by one number of each head."""
    rates = -jnp.exp(make(b, l, h, 1))
    made = recurrences.GatedRecurrence(
        make(b, l, h, n), make(b, l, h, n), make(b, l, h, p), rates
    )
    return made, make(b, h, n, p)


def twisted(make):
    """Return an erasure that takes away along something else than it writes."""
    made, state = rule(make)
    return made._replace(erase_writes=0.3 * make(b, l, h, n)), state


@pytest.mark.parametrize("segment_ids", [None, SEGMENTS], ids=["whole", "packed"])
@pytest.mark.parametrize("make", [rule, decay, twisted])
def test_chunks_are_the_definition(make, segment_ids):
    with enable_x64():
        made, state = make(draws(1))
        expected = recurrences.step_gated(made, state, segment_ids)
        for chunk in (1, 4, 16):
            run = quick_jit(partial(recurrences.run_in_chunks, chunk=chunk))
            found = run(made, state, segment_ids)
            for one, other in zip(found, expected, strict=True):
                assert_close(one, other, 1e-13)


def test_derivatives_are_those_of_the_definition():
    """Forward, reverse, twice, and of many at once; of the state and in it, too."""
    with enable_x64():
        made, state = rule(draws(2))
        run = partial(recurrences.run_in_chunks, segment_ids=SEGMENTS, chunk=4)
        step = partial(recurrences.step_gated, segment_ids=SEGMENTS)

        def measure(f, made, state):
            y, last = f(made, state)
            return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(last))

        def twice(f):
            def slope(made, state):
                d_made, d_state = jax.grad(partial(measure, f), argnums=(0, 1))(
                    made, state
                )
                return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(d_made)) + (
                    jnp.sum(d_state**2)
                )

            return quick_jit(jax.value_and_grad(slope, argnums=(0, 1)))(made, state)

        def forward(f):
            def out(x):
                return f(made._replace(values=made.values * x[0]), state * x[1])[0]

            return quick_jit(jax.jacfwd(out))(jnp.array([0.7, 1.3]))

        for derive in (twice, forward):
            jax.tree.map(
                lambda x, y: assert_close(x, y, 1e-11), derive(run), derive(step)
            )
        many = jax.tree.map(lambda x: jnp.stack([x, 0.9 * x]), made)
        found = quick_jit(jax.vmap(lambda one: run(one, state)[0]))(many)
        assert_close(found[0], step(made, state).y, 1e-13)
        assert_close(
            found[1], step(jax.tree.map(lambda x: 0.9 * x, made), state).y, 1e-13
        )


def test_long_texts_keep_float32_and_do_not_overflow():
    with enable_x64():
        make = draws(3)
        made, _ = rule(make, 150)
        made = made._replace(log_decay=made.log_decay.at[:, 40:60].set(-90.0))
        expected = recurrences.step_gated(made).y
        single = jax.tree.map(lambda x: x.astype(jnp.float32), made)
    y, gradient = jax.value_and_grad(
        lambda made: jnp.sum(recurrences.run_gated(made).y), has_aux=False
    )(single)
    assert_close(recurrences.run_gated(single).y, expected, 2e-6)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves((y, gradient)))


def test_inverse_by_halves():
    with enable_x64():
        N = jnp.tril(draws(4)(3, 13, 13), -1)
        found = invert_unit_lower(N)
        assert_close(found, np.linalg.inv(np.eye(13) + np.asarray(N)), 1e-12)


def test_packed_weights_are_refused():
    with enable_x64():
        ones = jnp.ones((1, 3, 1))
        made = recurrences.rwkv4(ones, ones, ones[0, 0], ones[0, 0])
        made = made._replace(floor=None)
        with pytest.raises(ValueError, match="no segment_ids where tokens have log_we"):
            recurrences.run_gated(made, None, jnp.zeros((1, 3), jnp.int32))
