"""Every implementation against the float64 definition of its rounded operands."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    IMPLEMENTATIONS,
    OPTIONS,
    assert_close,
    differentiable,
    in_float64,
    make_inputs,
    run_definition,
    run_scan,
    tolerance,
)

# An orthogonal array of strength two: any two columns show all four pairs of values.
# Columns: the five optional operands, softplus, two groups.
ROWS = ["0000000", "1010101", "0110011", "1100110",
        "0001111", "1011010", "0111100", "1101001"]  # fmt: skip
LENGTHS = [1, 7, 31, 32, 33, 100, 33, 7]
STATES = [16, 4, 1, 4, 16, 1, 4, 16]


def configuration(row: int, dtype="float32"):
    """Return operands and whether softplus is applied."""
    *options, delta_softplus, two_groups = (digit == "1" for digit in ROWS[row])
    inputs = make_inputs(
        row,
        length=LENGTHS[row],
        channels=6 if two_groups else 5,
        states=STATES[row],
        groups=2 if two_groups else 1,
        options=tuple(k for k, there in zip(OPTIONS, options, strict=True) if there),
        dtype=dtype,
    )
    return inputs, delta_softplus


@partial(jax.jit, static_argnums=0)
def value_and_gradients(scan, inputs):
    """Return outputs, and gradients of a loss in which every output has a weight."""
    wide = inputs.A.dtype
    draw = np.random.default_rng(11)

    def loss(parts):
        outputs = scan(inputs._replace(**parts))
        terms = [
            jnp.sum(jnp.asarray(draw.standard_normal(x.shape), wide) * x.astype(wide))
            for x in outputs
        ]
        return sum(terms), outputs

    gradients, outputs = jax.grad(loss, has_aux=True)(differentiable(inputs))
    return outputs, gradients


@cache
def scan_of(implementation, delta_softplus):
    """Return a function of ScanInputs, the same one each time."""
    if implementation == "definition":
        return partial(run_definition, delta_softplus=delta_softplus)
    return partial(
        run_scan, implementation=implementation, delta_softplus=delta_softplus
    )


def check(inputs, delta_softplus, implementation):
    """Compare outputs and gradients with the definition in float64."""
    bound = tolerance(inputs.u.dtype)
    scan = scan_of(implementation, delta_softplus)
    outputs, gradients = value_and_gradients(scan, inputs)
    definition = scan_of("definition", delta_softplus)
    expected = in_float64(lambda x: value_and_gradients(definition, x), inputs)
    assert outputs.y.dtype == inputs.u.dtype
    assert outputs.last_state.dtype == jnp.float32
    assert all(gradients[k].dtype == getattr(inputs, k).dtype for k in gradients)
    assert_close(outputs, expected[0], bound.value, "output")
    assert_close(gradients, expected[1], bound.gradient, "gradient")


@pytest.mark.parametrize("row", range(len(ROWS)), ids=ROWS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_selective_scan_equals_definition(implementation, row):
    inputs, delta_softplus = configuration(row)
    check(inputs, delta_softplus, implementation)


@pytest.mark.parametrize("length", [1, 7, 31, 32, 33, 100])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_selective_scan_of_any_length_equals_definition(implementation, length):
    inputs = make_inputs(length, length=length, channels=7, options=OPTIONS)
    outputs = run_scan(inputs, implementation, delta_softplus=True)
    definition = scan_of("definition", True)
    expected = in_float64(definition, inputs)
    assert_close(outputs, expected, tolerance("float32").value)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_selective_scan_in_half_precision_equals_definition(implementation, dtype):
    inputs = make_inputs(5, length=40, groups=5, options=OPTIONS, dtype=dtype)
    check(inputs, True, implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_selective_scan_in_float64_keeps_its_precision(implementation):
    with jax.enable_x64(True):
        inputs = make_inputs(6, length=40, options=OPTIONS, dtype="float64")
        outputs, gradients = value_and_gradients(scan_of(implementation, True), inputs)
        expected = value_and_gradients(scan_of("definition", True), inputs)
    assert outputs.y.dtype == outputs.last_state.dtype == np.float64
    bound = tolerance("float64")
    assert_close(outputs, expected[0], bound.value)
    assert_close(gradients, expected[1], bound.gradient)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_selective_scan_takes_each_operand_in_its_own_dtype(implementation):
    inputs = make_inputs(7, options=OPTIONS, dtype="bfloat16")
    inputs = inputs._replace(delta=inputs.delta.astype(jnp.float32))  # as in the mixer
    check(inputs, False, implementation)
