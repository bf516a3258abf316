"""The definition of the scan, against loops written with nothing but numpy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    IMPLEMENTATIONS,
    OPTIONS,
    assert_close,
    in_float64,
    loop_definition,
    make_inputs,
    quick_jit,
    widen,
)

from jmamba_kernels import CHUNK, load
from jmamba_kernels.versions import enable_x64

reference = load("reference")


CASES = {
    "bare": {},
    **{name: {"options": (name,)} for name in OPTIONS},
    "groups": {"groups": 2, "channels": 6},
    "all": {"options": OPTIONS, "groups": 3, "channels": 6, "states": 1},
    "one token": {"options": OPTIONS, "length": 1},
}


@pytest.mark.parametrize("delta_softplus", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_reference_equals_numpy_loop(case, delta_softplus):
    inputs = make_inputs(1, **CASES[case])
    expected = loop_definition(inputs, delta_softplus=delta_softplus)

    def run(inputs):
        return reference.scan(inputs, delta_softplus=delta_softplus)[:2]

    assert_close(in_float64(run, inputs), expected, 1e-14)


@pytest.mark.parametrize("groups", [1, 2])
def test_reference_gradient_equals_finite_differences(groups):
    inputs = make_inputs(
        2, batch=1, length=4, channels=4, states=2, groups=groups, options=OPTIONS
    )
    draw = np.random.default_rng(3)
    weights = [draw.standard_normal(s) for s in [(1, 4, 4), (1, 4, 2)]]
    wide = widen(inputs)._replace(segment_ids=inputs.segment_ids)

    def loss(parts):
        result = reference.scan(wide._replace(**parts), delta_softplus=True)
        return sum(jnp.sum(w * x) for w, x in zip(weights, result[:2], strict=True))

    with enable_x64():
        parts = {
            k: jnp.asarray(v) for k, v in wide._asdict().items() if k != "segment_ids"
        }
        gradient = quick_jit(jax.grad(loss))(parts)
        loss = quick_jit(loss)
        for name, value in parts.items():
            direction = draw.standard_normal(value.shape)
            low, high = (
                loss({**parts, name: value + step * direction})
                for step in (-1e-5, 1e-5)
            )
            along = float(jnp.sum(gradient[name] * direction))
            # error of a central difference: step^2 = 1e-10, and rounding 1e-16 / 1e-5
            assert along == pytest.approx(float(high - low) / 2e-5, rel=1e-7), name


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("length", [CHUNK - 1, CHUNK, CHUNK + 1])
def test_saved_states_are_those_before_each_chunk(implementation, length):
    inputs = make_inputs(4, length=length, options=("initial_state", "segment_ids"))
    segment_ids = jnp.asarray(inputs.segment_ids)
    maps = load(implementation)
    run = partial(maps.scan, delta_softplus=False, save_states=True)
    saved = quick_jit(run)(inputs).chunk_states
    starts = range(0, length, CHUNK)
    assert saved.shape[1] == len(starts)
    expected = [np.asarray(inputs.initial_state)]
    for start in starts[1:]:
        front = inputs._replace(
            **{k: getattr(inputs, k)[:, :start] for k in ("u", "delta", "B", "C")},
            segment_ids=segment_ids[:, :start],
        )
        expected.append(loop_definition(front, delta_softplus=False)[1])
    expected = np.swapaxes(np.stack(expected, axis=1), 2, 3)  # b m d n -> b m n d
    assert_close(saved, expected, 2e-6)
