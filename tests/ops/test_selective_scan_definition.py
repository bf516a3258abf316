"""Every implementation against the float64 definition of its rounded operands."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    IMPLEMENTATIONS,
    INTERPRETED,
    OPTIONS,
    XLA_FORMS,
    assert_close,
    differentiable,
    in_float64,
    make_inputs,
    quick_jit,
    run_definition,
    run_scan,
    tolerance,
)

from jmamba_kernels.versions import enable_x64

pytestmark = pytest.mark.usefixtures("optimised_programs")

# An orthogonal array of strength two: any two columns show all four pairs of values.
# Columns: the five optional operands, softplus, two groups.
ROWS = ["0000000", "1010101", "0110011", "1100110",
        "0001111", "1011010", "0111100", "1101001"]  # fmt: skip
LENGTHS = [1, 7, 31, 32, 33, 100, 33, 7]
USUAL = range(1, 5)  # in these every column shows both values
STATES = [16, 4, 1, 4, 5, 1, 3, 2]  # interpreted kernels are unrolled over them


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


def outcome(inputs, implementation, delta_softplus):
    """Return outputs and gradients of an implementation, compiled as a user would."""
    scan = partial(
        run_scan, implementation=implementation, delta_softplus=delta_softplus
    )
    jit = quick_jit if implementation in INTERPRETED else jax.jit
    return jit(partial(value_and_gradients, scan))(inputs)


def expected_outcome(inputs, delta_softplus):
    """Return outputs and gradients of the definition in float64."""
    scan = partial(run_definition, delta_softplus=delta_softplus)
    return in_float64(partial(value_and_gradients, scan), inputs)


def check(inputs, delta_softplus, implementation, expected):
    """Compare outputs and gradients with the definition's."""
    bound = tolerance(inputs.u.dtype)
    outputs, gradients = outcome(inputs, implementation, delta_softplus)
    assert outputs.y.dtype == inputs.u.dtype
    assert outputs.last_state.dtype == jnp.float32
    assert all(gradients[k].dtype == getattr(inputs, k).dtype for k in gradients)
    assert_close(outputs, expected[0], bound.value, "output")
    assert_close(gradients, expected[1], bound.gradient, "gradient")


def rows():
    """Yield all rows for the scan that runs here by itself, the usual for others."""
    for implementation in IMPLEMENTATIONS:
        for row, options in enumerate(ROWS):
            is_usual = implementation == "xla_loop" or row in USUAL
            marks = [] if is_usual else [pytest.mark.exhaustive]
            name = f"{implementation}-{options}"
            yield pytest.param(implementation, row, marks=marks, id=name)


@cache
def expected_of_row(row):
    return expected_outcome(*configuration(row))


@pytest.mark.parametrize(("implementation", "row"), [*rows()])
def test_selective_scan_equals_definition(implementation, row):
    check(*configuration(row), implementation, expected_of_row(row))


@cache
def expected_of_half(dtype, wide_delta):
    return expected_outcome(half_precision(dtype, wide_delta), True)


def half_precision(dtype, wide_delta):
    inputs = make_inputs(5, length=40, groups=5, states=2, options=OPTIONS, dtype=dtype)
    wide = inputs._replace(delta=inputs.delta.astype(jnp.float32))
    return wide if wide_delta else inputs


def half_precisions():
    """Yield all for the scan that runs here by itself, what mixers give for others."""
    dtypes = [("bfloat16", True), ("bfloat16", False), ("float16", False)]
    for implementation, (dtype, wide) in itertools.product(IMPLEMENTATIONS, dtypes):
        is_usual = implementation == "xla_loop" or wide
        marks = [] if is_usual else [pytest.mark.exhaustive]
        yield pytest.param(implementation, dtype, wide, marks=marks)


# the mixer gives delta in float32 whatever the others are
@pytest.mark.parametrize(
    ("implementation", "dtype", "wide_delta"), [*half_precisions()]
)
def test_selective_scan_in_half_precision_equals_definition(
    implementation, dtype, wide_delta
):
    inputs = half_precision(dtype, wide_delta)
    check(inputs, True, implementation, expected_of_half(dtype, wide_delta))


@pytest.mark.parametrize("implementation", XLA_FORMS)
def test_selective_scan_in_float64_keeps_its_precision(implementation):
    with enable_x64():
        inputs = make_inputs(6, length=40, options=OPTIONS, dtype="float64")
        outputs, gradients = outcome(inputs, implementation, True)
        expected = expected_outcome(inputs, True)
    assert outputs.y.dtype == outputs.last_state.dtype == np.float64
    bound = tolerance("float64")
    assert_close(outputs, expected[0], bound.value, "output")
    assert_close(gradients, expected[1], bound.gradient, "gradient")


@pytest.mark.parametrize("implementation", INTERPRETED)
def test_kernel_refuses_float64(implementation):
    with enable_x64():
        inputs = make_inputs(6, dtype="float64")
        with pytest.raises(NotImplementedError, match=rf"{implementation} .*float64.*"):
            run_scan(inputs, implementation)
