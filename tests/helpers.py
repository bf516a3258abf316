"""What the tests share: implementations, tolerances, errors and random operands."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_programs import quick_jit as quick_jit

import jmamba_kernels
from jmamba.ops import ScanOutput, selective_scan
from jmamba_kernels import ScanInputs
from jmamba_kernels.selective_scan.table import KERNELS
from jmamba_kernels.targets import is_interpreted
from jmamba_kernels.versions import enable_x64


def runs_here(name: str) -> bool:
    """Return whether this jax runs an implementation on a CPU, interpreted or not."""
    return name not in KERNELS or is_interpreted(KERNELS[name])


def needs(name: str) -> pytest.MarkDecorator:
    """Return the mark of a test that runs a kernel: skipped where jax is too old."""
    service = KERNELS[name]
    version = ".".join(map(str, service.interprets))
    return pytest.mark.skipif(
        not runs_here(name),
        reason=f"{name} is interpreted by jax {version} and newer",
    )


IMPLEMENTATIONS = tuple(filter(runs_here, jmamba_kernels.IMPLEMENTATIONS))
"""Every op test is parametrised over these: a new backend is one line in the table."""

INTERPRETED = tuple(name for name in IMPLEMENTATIONS if name in KERNELS)
"""Those that are compiled for an accelerator; the tests here interpret them.

Interpreted kernels take seconds to compile. So the tests of what implementations share
(the rules of the primitives, the laws) run on the others, and the kernels where their
own three maps are compared with the definition.
"""


def kernels_at_length(names):
    """Return names as parameters, those of interpreted kernels for `-m exhaustive`."""
    return [
        pytest.param(name, marks=[pytest.mark.exhaustive])
        if name in INTERPRETED
        else name
        for name in names
    ]


XLA_FORMS = tuple(name for name in IMPLEMENTATIONS if name not in INTERPRETED)

OPTIONS = ("D", "z", "delta_bias", "initial_state", "segment_ids")
"""The optional operands of the scan."""

PARAMETERS = ("A", "D", "delta_bias")
"""Operands that all tokens share."""


class Tolerance(NamedTuple):
    """Largest error allowed, relative to the largest magnitude of what is expected."""

    value: float
    gradient: float


TOLERANCES = {
    # sums in another order: 1e-16 per term, l n terms
    "float64": Tolerance(1e-13, 1e-12),
    # measured 1e-7 and flat in l up to 2048, gradients up to 1e-6
    "float32": Tolerance(2e-6, 1e-5),
    # y is rounded once, to 8 bits (2^-9); a gradient is rounded once more on its way
    "bfloat16": Tolerance(8e-3, 1.6e-2),
    # the same with 11 bits (2^-12)
    "float16": Tolerance(1e-3, 2e-3),
}
"""By the dtype of u, whatever the implementation, on a CPU."""


def tolerance(dtype) -> Tolerance:
    """Return the tolerance for results made from operands of a dtype."""
    return TOLERANCES[jnp.dtype(dtype).name]


def relative_error(actual, expected) -> float:
    """Return max |actual - expected| / max |expected|, computed in float64."""
    actual = np.asarray(actual, np.float64)
    expected = np.asarray(expected, np.float64)
    if actual.shape != expected.shape:
        raise AssertionError(f"shapes {actual.shape} and {expected.shape} differ")
    if actual.size == 0:
        return 0.0
    largest = np.max(np.abs(expected))
    return float(np.max(np.abs(actual - expected)) / (largest if largest else 1.0))


def assert_close(actual, expected, bound: float, what: str = "") -> None:
    """Assert that two equal pytrees differ by `bound` at most, relative to the largest.

    NaNs and infinities fail, since no comparison with them holds.
    """
    flat, tree = jax.tree.flatten_with_path(actual)
    expected_flat, expected_tree = jax.tree.flatten(expected)
    assert tree == expected_tree, f"{tree} is not {expected_tree}"
    for (path, a), e in zip(flat, expected_flat, strict=True):
        error = relative_error(a, e)
        name = f"{what}{jax.tree_util.keystr(path)}"
        assert error <= bound, f"{name}: error {error:.2e} is above {bound:.0e}"


def make_inputs(
    seed: int = 0,
    *,
    batch: int = 2,
    length: int = 9,
    channels: int = 5,
    states: int = 3,
    groups: int = 1,
    options: tuple[str, ...] = (),
    dtype="float32",
) -> ScanInputs:
    """Draw operands of the size a trained model has.

    `delta` is positive, so that it may be used with and without softplus; A, D,
    delta_bias and initial_state stay float32 under lower precision, as in a model.
    """
    draw = np.random.default_rng(seed)
    dtype = jnp.dtype(dtype)
    wide = jnp.dtype("float64" if dtype == jnp.float64 else "float32")

    def normal(*shape, dtype=dtype):
        return jnp.asarray(draw.standard_normal(shape).astype(wide)).astype(dtype)

    def uniform(low, high, *shape, dtype=dtype):
        return jnp.asarray(draw.uniform(low, high, shape).astype(wide)).astype(dtype)

    by_token, by_gate = (batch, length, channels), (batch, length, groups, states)
    # all are drawn, so that the others do not depend on which are there
    optional = {
        "D": normal(channels, dtype=wide),
        "z": normal(*by_token),
        "delta_bias": uniform(0.0, 0.5, channels, dtype=wide),
        "initial_state": normal(batch, channels, states, dtype=wide),
        "segment_ids": jnp.asarray(np.cumsum(draw.random((batch, length)) < 0.3, 1)),
    }
    return ScanInputs(
        u=normal(*by_token),
        delta=uniform(0.05, 1.0, *by_token),
        A=-uniform(0.2, 3.0, channels, states, dtype=wide),
        B=normal(*by_gate),
        C=normal(*by_gate),
        **{name: optional[name] for name in options},
    )


def widen(tree):
    """Return a pytree of numpy arrays, its floating leaves in float64."""

    def one(x):
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return np.asarray(
            x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x
        ).astype(np.float64 if floating else np.int32)

    return jax.tree.map(one, tree)


def in_float64(function, *args):
    """Run a function on float64 copies of its (already rounded) arguments.

    Returns:
      The result as numpy arrays.
    """
    with enable_x64():
        out = quick_jit(function)(*jax.tree.map(jnp.asarray, widen(args)))
        return jax.tree.map(np.asarray, out)


def run_scan(
    inputs: ScanInputs, implementation: str | None, *, delta_softplus: bool = False
) -> ScanOutput:
    """Call the op on ScanInputs."""
    return selective_scan(
        *inputs[:8],
        delta_softplus=delta_softplus,
        initial_state=inputs.initial_state,
        segment_ids=inputs.segment_ids,
        implementation=implementation,
    )


def run_definition(inputs: ScanInputs, *, delta_softplus: bool = False) -> ScanOutput:
    """Run the definition as plain JAX code, which JAX differentiates by itself."""
    maps = jmamba_kernels.load("reference")
    return ScanOutput(*maps.scan(inputs, delta_softplus=delta_softplus)[:2])


def differentiable(inputs: Any) -> dict[str, jax.Array]:
    """Return the operands that are there and have gradients, by name."""
    parts = {k: v for k, v in inputs._asdict().items() if v is not None}
    parts.pop("segment_ids", None)
    return parts


def loop_definition(inputs, *, delta_softplus):
    """Run the recurrence one number at a time, in float64."""
    x = widen(inputs)
    (batch, length, channels), states = x.u.shape, x.A.shape[1]
    per_group = channels // x.B.shape[2]
    y = np.zeros(x.u.shape)
    last_state = np.zeros((batch, channels, states))
    for b, d in np.ndindex(batch, channels):
        h = (
            np.zeros(states)
            if x.initial_state is None
            else x.initial_state[b, d].copy()
        )
        for t in range(length):
            delta = x.delta[b, t, d]
            if x.delta_bias is not None:
                delta = delta + x.delta_bias[d]
            if delta_softplus:
                delta = np.log1p(np.exp(delta))
            if x.segment_ids is not None and t > 0:
                if x.segment_ids[b, t] != x.segment_ids[b, t - 1]:
                    h = np.zeros(states)
            for n in range(states):
                B = x.B[b, t, d // per_group, n]
                h[n] = np.exp(delta * x.A[d, n]) * h[n] + delta * B * x.u[b, t, d]
                y[b, t, d] += x.C[b, t, d // per_group, n] * h[n]
            if x.D is not None:
                y[b, t, d] += x.D[d] * x.u[b, t, d]
            if x.z is not None:
                z = x.z[b, t, d]
                y[b, t, d] *= z / (1 + np.exp(-z))
        last_state[b, d] = h
    return y, last_state


def selective_arrays(recurrence) -> list[np.ndarray]:
    """Return delta, A, B and C of a layer of one group in float64, without its axis."""
    found = recurrence.delta, recurrence.A, recurrence.B[:, :, 0], recurrence.C[:, :, 0]
    return [np.asarray(x, np.float64) for x in found]
