"""How exact the scan is, by regime and dtype: the program behind docs/precision.md."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from worst_errors import REGIMES, define, draw, measure

from jmamba.ops import selective_scan
from jmamba_kernels.versions import enable_x64

pytestmark = pytest.mark.usefixtures("optimised_programs")

LENGTH = 300


@pytest.mark.parametrize("implementation", ["reference", "xla_loop", "xla_chunked"])
@pytest.mark.parametrize("regime", REGIMES)
def test_errors_stay_within_the_rounding_of_every_step(regime, implementation):
    for dtype, bits in {"float32": 24, "float64": 53}.items():
        errors = measure(REGIMES[regime], dtype, LENGTH, implementation)
        assert max(errors) <= LENGTH * 2.0**-bits


@pytest.mark.parametrize("regime", REGIMES)
def test_half_precision_loses_only_what_its_results_are_rounded_by(regime):
    for dtype, bits in {"float16": 11, "bfloat16": 8}.items():
        values, states, gradients = measure(REGIMES[regime], dtype, LENGTH)
        assert values <= 2.0**-bits
        # step sizes of 1e-5 and less, and with them gradients, leave float16's range
        if dtype == "bfloat16" or REGIMES[regime].largest > 1e-2:
            assert gradients <= 2.0 * 2.0**-bits
        assert states <= LENGTH * 2.0**-24  # float32 whatever the inputs are


def test_decays_that_round_to_one_forget_nothing():
    u, delta, A, B, C, d_y, d_last_state = draw(REGIMES["remembers"], 1000)
    A = np.asarray(A)

    def last_state(dtype):
        with enable_x64(dtype == "float64"):
            operands = (jnp.asarray(x, dtype) for x in (0 * u, delta, A, B, C))
            start = jnp.ones((1, *A.shape), dtype)
            return np.asarray(selective_scan(*operands, initial_state=start).last_state)

    truth = np.exp(A * delta.sum(1)[0][:, None])[None]
    np.testing.assert_allclose(last_state("float64"), truth, rtol=1e-13)
    missed = np.abs(last_state("float32") - truth)
    assert missed.max() > 1e-5  # what the docstring of the scan warns of
    assert missed.max() <= 1000 * 2.0**-24


def test_definition_of_the_gradients_is_the_derivative_of_its_values():
    operands = [np.asarray(x, np.longdouble) for x in draw(REGIMES["mixed"], 7)]
    *inputs, d_y, d_last_state = operands
    moved = [x + 1e-6 * np.cos(np.arange(x.size)).reshape(x.shape) for x in inputs]
    back = [2 * x - y for x, y in zip(inputs, moved, strict=True)]
    (y1, h1), (y0, h0) = (define(*[*x, d_y, d_last_state])[:2] for x in (moved, back))
    change = np.sum((y1 - y0) * d_y) + np.sum((h1 - h0) * d_last_state)
    pulled = define(*operands)[2:]
    steps = (m - b for m, b in zip(moved, back, strict=True))
    predicted = sum(np.sum(g * s) for g, s in zip(pulled, steps, strict=True))
    np.testing.assert_allclose(float(change), float(predicted), rtol=1e-6)
