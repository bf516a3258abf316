"""Laws that hold whatever the numbers: drawn shapes, every implementation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    OPTIONS,
    XLA_FORMS,
    assert_close,
    make_inputs,
    run_scan,
    tolerance,
)
from hypothesis import given
from hypothesis import strategies as st

from jmamba.ops import selective_state_update

pytestmark = pytest.mark.usefixtures("optimised_programs")

BOUND = tolerance("float32").value
BY_TOKEN = ("u", "delta", "B", "C", "z", "segment_ids")
BY_CHANNEL = {"u": 2, "delta": 2, "z": 2, "A": 0, "D": 0, "delta_bias": 0,
              "initial_state": 1}  # fmt: skip
BY_ROW = (*BY_TOKEN, "initial_state")

every_implementation = pytest.mark.parametrize("implementation", XLA_FORMS)


@st.composite
def operands(draw, options=OPTIONS):
    """Draw operands, in two shapes: each law compiles for every shape."""
    length, options = draw(st.sampled_from([(2, ()), (35, options)]))
    seed = draw(st.integers(0, 10**6))
    return make_inputs(seed, length=length, channels=4, states=2, options=options)


def only(inputs, names, change):
    """Return the inputs with a change made to the named operands that are there."""
    there = {k: getattr(inputs, k) for k in names if getattr(inputs, k) is not None}
    return inputs._replace(**{k: change(k, x) for k, x in there.items()})


def state_of(inputs):
    """Return the state before the first token, which is there."""
    assert inputs.initial_state is not None
    return inputs.initial_state


def run_from(inputs, state, implementation):
    """Run the recurrence from a state."""
    return run_scan(inputs._replace(initial_state=state), implementation)


@every_implementation
@given(inputs=operands(), cut=st.sampled_from([1, 33]))
def test_scan_in_two_parts_equals_whole(implementation, inputs, cut):
    cut = min(cut, inputs.u.shape[1] - 1)
    if inputs.segment_ids is not None:  # a part does not see the id before it
        same = inputs.segment_ids[:, cut - 1 : cut + 1].max(axis=1, keepdims=True)
        ids = inputs.segment_ids.at[:, cut - 1 : cut + 1].set(same)
        inputs = inputs._replace(segment_ids=ids)
    front = only(inputs, BY_TOKEN, lambda _, x: x[:, :cut])
    back = only(inputs, BY_TOKEN, lambda _, x: x[:, cut:])
    first = run_scan(front, implementation)
    second = run_from(back, first.last_state, implementation)
    whole = run_scan(inputs, implementation)
    joined = jnp.concatenate([first.y, second.y], axis=1)
    assert_close((joined, second.last_state), tuple(whole), BOUND)


@every_implementation
@given(inputs=operands())
def test_scan_is_causal(implementation, inputs):
    middle = inputs.u.shape[1] // 2
    later = only(
        inputs, ("u", "delta", "B", "C", "z"), lambda _, x: x.at[:, middle:].mul(0.5)
    )
    before, after = (run_scan(x, implementation).y for x in (inputs, later))
    chex.assert_trees_all_equal(before[:, :middle], after[:, :middle])
    assert np.any(np.asarray(before != after)[:, middle:])


@every_implementation
@given(inputs=operands(("D", "z", "delta_bias", "segment_ids")))
def test_scan_is_linear_in_u(implementation, inputs):
    other = make_inputs(1, length=inputs.u.shape[1], channels=4, states=2).u
    outputs = [
        run_scan(inputs._replace(u=u), implementation)
        for u in (inputs.u, other, 2 * inputs.u - 3 * other)
    ]
    combined = jax.tree.map(lambda a, b: 2 * a - 3 * b, *outputs[:2])
    # the sum may be smaller than its terms, of which each has its error
    assert_close(outputs[2], combined, 10 * BOUND)


@every_implementation
@given(inputs=operands(("D", "z", "initial_state")))
def test_scan_step_of_size_zero_changes_no_state(implementation, inputs):
    padded = only(
        inputs,
        ("u", "delta", "B", "C", "z"),
        lambda k, x: jnp.concatenate([x, 0 * x if k == "delta" else x], axis=1),
    )
    long, short = (run_scan(x, implementation) for x in (padded, inputs))
    length = inputs.u.shape[1]
    assert_close((long.y[:, :length], long.last_state), tuple(short), BOUND)


@every_implementation
@given(inputs=operands(), order=st.permutations(range(4)))
def test_scan_commutes_with_permuted_channels(implementation, inputs, order):
    order = np.array(order)
    moved = only(inputs, BY_CHANNEL, lambda k, x: jnp.take(x, order, BY_CHANNEL[k]))
    y, last_state = run_scan(inputs, implementation)
    expected = (y[:, :, order], last_state[:, order])
    assert_close(tuple(run_scan(moved, implementation)), expected, BOUND)


@every_implementation
@given(inputs=operands())
def test_scan_keeps_rows_apart(implementation, inputs):
    swapped = only(inputs, BY_ROW, lambda _, x: x[::-1])
    expected = jax.tree.map(lambda x: x[::-1], run_scan(inputs, implementation))
    assert_close(run_scan(swapped, implementation), expected, BOUND)
    alone = run_scan(only(inputs, BY_ROW, lambda _, x: x[:1]), implementation)
    assert_close(alone, jax.tree.map(lambda x: x[-1:], expected), BOUND)


@every_implementation
@given(seed=st.integers(0, 10**6))
def test_scan_with_groups_equals_repeated_gates(implementation, seed):
    inputs = make_inputs(
        seed, length=5, channels=6, states=2, groups=3, options=OPTIONS
    )
    repeated = only(inputs, ("B", "C"), lambda _, x: jnp.repeat(x, 2, axis=2))
    outputs, expected = (run_scan(x, implementation) for x in (inputs, repeated))
    assert_close(outputs, expected, BOUND)


@every_implementation
@given(seed=st.integers(0, 10**6), first=st.sampled_from([1, 32, 34]))
def test_scan_of_segments_equals_separate_scans(implementation, seed, first):
    options = ("D", "z", "delta_bias", "initial_state")
    inputs = make_inputs(seed, length=35, channels=4, states=2, options=options)
    ids = jnp.where(jnp.arange(35) < first, 7, 2)[None].repeat(2, axis=0)
    packed = run_scan(inputs._replace(segment_ids=ids), implementation)
    front = only(inputs, BY_TOKEN, lambda _, x: x[:, :first])
    back = only(inputs, BY_TOKEN, lambda _, x: x[:, first:])
    before = run_scan(front, implementation)
    after = run_scan(back._replace(initial_state=None), implementation)
    joined = jnp.concatenate([before.y, after.y], axis=1)
    assert_close(tuple(packed), (joined, after.last_state), BOUND)


@every_implementation
@pytest.mark.parametrize("delta_softplus", [False, True])
@pytest.mark.parametrize(
    "options", [("initial_state",), ("initial_state", "D", "z", "delta_bias")]
)
def test_state_updates_equal_scan(implementation, options, delta_softplus):
    inputs = make_inputs(3, length=6, channels=6, states=2, groups=2, options=options)
    state, ys = state_of(inputs), []
    for t in range(6):
        x = only(inputs, BY_TOKEN, lambda _, x, t=t: x[:, t])
        y, state = selective_state_update(state, *x[:8], delta_softplus=delta_softplus)
        ys.append(y)
    expected = run_scan(inputs, implementation, delta_softplus=delta_softplus)
    assert_close((jnp.stack(ys, axis=1), state), tuple(expected), BOUND)


def test_state_update_takes_gates_without_groups():
    inputs = make_inputs(4, length=1, options=("initial_state",))
    x = only(inputs, BY_TOKEN, lambda _, x: x[:, 0])
    grouped = selective_state_update(state_of(inputs), *x[:5])
    x = x._replace(B=x.B[:, 0], C=x.C[:, 0])
    chex.assert_trees_all_equal(
        grouped, selective_state_update(state_of(inputs), *x[:5])
    )


def test_state_update_keeps_the_dtypes_of_the_scan():
    inputs = make_inputs(4, length=1, options=("initial_state",), dtype="bfloat16")
    x = only(inputs, BY_TOKEN, lambda _, x: x[:, 0])
    y, state = selective_state_update(state_of(inputs), *x[:5])
    assert (y.dtype, state.dtype) == (jnp.bfloat16, jnp.float32)


@every_implementation
def test_scan_takes_gates_without_groups(implementation):
    inputs = make_inputs(4)
    bare = inputs._replace(B=inputs.B[:, :, 0], C=inputs.C[:, :, 0])
    chex.assert_trees_all_equal(
        run_scan(bare, implementation), run_scan(inputs, implementation)
    )
