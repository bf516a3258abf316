"""Operands of Mamba-2's recurrence, and its definition, for the tests of `ssd`."""

import jax
import jax.numpy as jnp
import numpy as np

from jmamba.ops import SsdOutput, ssd
from jmamba_kernels.ssd.contract import SsdInputs
from jmamba_kernels.ssd.table import load_ssd


def make_ssd_inputs(
    seed=0,
    *,
    batch=2,
    length=9,
    heads=2,
    width=3,
    states=4,
    groups=1,
    options=(),
    dtype="float32",
) -> SsdInputs:
    """Draw operands; delta, A and the state stay float32 under lower precision."""
    draw = np.random.default_rng(seed)
    dtype = jnp.dtype(dtype)
    wide = jnp.dtype("float64" if dtype == jnp.float64 else "float32")

    def normal(*shape):
        return jnp.asarray(draw.standard_normal(shape).astype(wide))

    def uniform(low, high, *shape):
        return jnp.asarray(draw.uniform(low, high, shape).astype(wide))

    optional = {
        "initial_state": normal(batch, heads, width, states),
        "segment_ids": jnp.asarray(np.cumsum(draw.random((batch, length)) < 0.1, 1)),
    }
    return SsdInputs(
        u=normal(batch, length, heads, width).astype(dtype),
        delta=uniform(0.05, 1.0, batch, length, heads),
        A=-uniform(0.2, 3.0, heads),
        B=normal(batch, length, groups, states).astype(dtype),
        C=normal(batch, length, groups, states).astype(dtype),
        **{name: optional[name] for name in options},
    )


def run_ssd(inputs: SsdInputs, implementation: str | None = None) -> SsdOutput:
    """Call the op on SsdInputs."""
    return ssd(
        *inputs[:5],
        initial_state=inputs.initial_state,
        segment_ids=inputs.segment_ids,
        implementation=implementation,
    )


def define_ssd(inputs: SsdInputs) -> SsdOutput:
    """Run the definition as plain JAX code, which JAX differentiates by itself."""
    y, last_state, _ = load_ssd("reference").scan(inputs)
    return SsdOutput(y.astype(inputs.u.dtype), last_state)


def wave(start, *shape):
    """Return sin(start + 0.7 i), i the index in C order, in float64."""
    return np.sin(start + 0.7 * np.arange(np.prod(shape))).reshape(shape)


def golden_operands():
    """Return u, delta, A, B, C and D of the golden numbers."""
    length, heads, width, states = 6, 2, 3, 4
    return [
        jnp.asarray(x)
        for x in (
            wave(0.1, 1, length, heads, width),
            jax.nn.softplus(wave(0.4, 1, length, heads)),
            np.array([-1.0, -4.0]),
            wave(0.2, 1, length, states),
            wave(0.3, 1, length, states),
            np.array([0.5, 1.5]),
        )
    ]
