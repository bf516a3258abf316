"""The derivative table: every transform against autodiff of the float64 definition."""

import itertools
from functools import cache, partial

import pytest
from helpers import (
    IMPLEMENTATIONS,
    INTERPRETED,
    OPTIONS,
    assert_close,
    in_float64,
    kernels_at_length,
    make_inputs,
    quick_jit,
    run_definition,
    run_scan,
    tolerance,
)
from transforms import TRANSFORMS

from jmamba_kernels import CHUNK

OTHERS = [name for name in IMPLEMENTATIONS if name != "reference"]  # has no own maps
TINY = {"batch": 1, "length": 4, "channels": 4, "states": 2}
ALL = {**TINY, "options": OPTIONS, "groups": 2, "delta_softplus": True}
OPTION_CASES = {
    **{name: {"options": (name,)} for name in OPTIONS},
    "softplus": {"delta_softplus": True},
    "groups": {"groups": 2, "channels": 4},
}
LONG = {"batch": 2, "length": CHUNK + 3, "channels": 3, "states": 2}


def make_case(delta_softplus=False, **sizes):
    return make_inputs(21, **sizes), delta_softplus


@cache
def expected(name, case):
    """Return what a transform of the definition gives in float64."""
    inputs, delta_softplus = make_case(**dict(case))
    scan = partial(run_definition, delta_softplus=delta_softplus)
    return in_float64(partial(TRANSFORMS[name], scan), inputs)


def check(name, implementation, case):
    inputs, delta_softplus = make_case(**case)
    scan = partial(
        run_scan, implementation=implementation, delta_softplus=delta_softplus
    )
    actual = quick_jit(partial(TRANSFORMS[name], scan))(inputs)
    wanted = expected(name, tuple(sorted(case.items())))
    assert_close(actual, wanted, tolerance("float32").gradient, name)


@pytest.mark.parametrize("name", sorted(TRANSFORMS.keys() - {"jvp"}))  # a part of one
def test_transform_equals_that_of_the_definition(name):
    """The rules are the same for all implementations."""
    check(name, "xla_loop", ALL)


# all three maps, in several directions, and folded into batch and groups
OF_MAPS = ["grad_and_jvp", "jacfwd", "jacrev", "vmap_of_grad_over_parameters"]


def maps():
    """Yield all for each implementation; jacfwd and jacrev hold what the first does."""
    for implementation, name in itertools.product(IMPLEMENTATIONS, OF_MAPS):
        is_usual = implementation == "xla_loop" or name != "grad_and_jvp"
        marks = [] if is_usual else [pytest.mark.exhaustive]
        yield pytest.param(implementation, name, marks=marks)


@pytest.mark.parametrize(("implementation", "name"), [*maps()])
def test_transform_of_implementation_equals_that_of_the_definition(
    implementation, name
):
    check(name, implementation, ALL)


@pytest.mark.parametrize(
    "name", ["grad_and_jvp", "linear_transpose_of_vjp", "vmap_twice"]
)
def test_transform_without_options_equals_that_of_the_definition(name):
    check(name, "xla_loop", TINY)


@pytest.mark.parametrize("case", OPTION_CASES)
@pytest.mark.parametrize("implementation", kernels_at_length(OTHERS))
def test_derivative_with_one_option_equals_that_of_the_definition(implementation, case):
    # gradients of kernels: test_selective_scan_equals_definition
    name = "jvp" if implementation in INTERPRETED else "grad_and_jvp"
    check(name, implementation, {**LONG, **OPTION_CASES[case]})


@pytest.mark.parametrize("name", ["jacfwd_under_vmap", "jacrev_under_vmap"])
@pytest.mark.parametrize("implementation", [k for k in OTHERS if k not in INTERPRETED])
def test_transform_across_chunks_equals_that_of_the_definition(implementation, name):
    check(name, implementation, {**LONG, "batch": 1, "options": OPTIONS})
