"""Worst errors of the selective scan: by regime, dtype and what is asked for.

    python benchmarks/worst_errors.py                  # the table of docs/precision.md
    python benchmarks/worst_errors.py --length 4096 --implementation xla_chunked

The truth is the recurrence and its adjoint in NumPy's 80-bit long double, on the same
inputs rounded to the dtype. An error is the largest of an array over the array's
largest value, and of the gradients it is the worst of all operands. Results in
float16 and bfloat16 are rounded to it, which alone makes 5e-4 and 4e-3.
"""

import argparse
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from jmamba.ops import selective_scan
from jmamba_kernels import IMPLEMENTATIONS, accumulation_dtype
from jmamba_kernels.versions import enable_x64

BATCH, CHANNELS, STATES = 1, 8, 4
DTYPES = ("float16", "bfloat16", "float32", "float64")


class Regime(NamedTuple):
    """Step sizes are drawn log-uniformly from a range, rates are -1 to -n."""

    says: str
    smallest: float
    largest: float


REGIMES = {
    "remembers": Regime("delta A about -1e-8: nothing is forgotten", 3e-9, 1e-8),
    "slow": Regime("delta A about -1e-5", 3e-6, 1e-5),
    "usual": Regime("step sizes that Mamba starts from", 1e-3, 1e-1),
    "fast": Regime("a token forgets all before it", 5.0, 50.0),
    "mixed": Regime("all of these in turn", 1e-8, 50.0),
}


class Errors(NamedTuple):
    """The worst of each kind, in parts of the largest value."""

    values: float
    states: float
    gradients: float


def draw(regime: Regime, length: int, seed: int = 0) -> list[np.ndarray]:
    """Return u, delta, A, B, C, and cotangents of y and of the last state."""
    rng = np.random.default_rng(seed)
    low, high = np.log(regime.smallest), np.log(regime.largest)
    delta = np.exp(rng.uniform(low, high, (BATCH, length, CHANNELS)))
    A = -np.broadcast_to(np.arange(1.0, STATES + 1), (CHANNELS, STATES))
    u, d_y = rng.standard_normal((2, BATCH, length, CHANNELS))
    B, C = rng.standard_normal((2, BATCH, length, STATES))
    return [u, delta, A, B, C, d_y, rng.standard_normal((BATCH, CHANNELS, STATES))]


def define(u, delta, A, B, C, d_y, d_last_state) -> list[np.ndarray]:
    """Return y, the last state, and the cotangents of u, delta, A, B, C.

    h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t],   y[t] = C[t] . h[t]
    g[t] = C[t] d_y[t] + exp(delta[t+1] A) g[t+1]
    """
    operands = (u, delta, A, B, C, d_y, d_last_state)
    u, delta, A, B, C, d_y, g = (np.asarray(x, np.longdouble) for x in operands)
    length = u.shape[1]
    h = [np.zeros_like(g)]
    for t in range(length):
        A_bar = np.exp(delta[:, t, :, None] * A)
        h.append(A_bar * h[-1] + (delta * u)[:, t, :, None] * B[:, t, None])
    y = np.einsum("lbdn,bln->bld", np.stack(h[1:]), C)
    d_u, d_delta, d_B, d_C = (np.zeros_like(x) for x in (u, delta, B, C))
    d_A = np.zeros_like(A)
    for t in reversed(range(length)):
        g = g + C[:, t, None] * d_y[:, t, :, None]
        d_C[:, t] = np.einsum("bdn,bd->bn", h[t + 1], d_y[:, t])
        d_B[:, t] = np.einsum("bdn,bd->bn", g, (delta * u)[:, t])
        B_g = np.einsum("bn,bdn->bd", B[:, t], g)
        g = np.exp(delta[:, t, :, None] * A) * g
        w = g * h[t]
        d_u[:, t] = delta[:, t] * B_g
        d_delta[:, t] = np.einsum("dn,bdn->bd", A, w) + u[:, t] * B_g
        d_A += np.einsum("bd,bdn->dn", delta[:, t], w)
    return [y, h[-1], d_u, d_delta, d_A, d_B, d_C]


@partial(jax.jit, static_argnames="implementation")
def compute(operands, d_y, d_last_state, implementation) -> list[jax.Array]:
    """Return the same as `define` from the op."""

    def run(*operands):
        return tuple(selective_scan(*operands, implementation=implementation))

    (y, last_state), pull = jax.vjp(run, *operands)
    return [y, last_state, *pull((d_y, d_last_state))]


def measure(
    regime: Regime, dtype: str, length: int, implementation: str | None = None
) -> Errors:
    """Return the worst errors of one row of the table."""
    with enable_x64(dtype == "float64"):
        *made, d_last_state = draw(regime, length)
        *operands, d_y = (jnp.asarray(x, dtype) for x in made)
        d_last_state = jnp.asarray(d_last_state, accumulation_dtype(jnp.dtype(dtype)))
        found = compute(operands, d_y, d_last_state, implementation)
        arrays = (*operands, d_y, d_last_state, *found)
        wide = [np.asarray(x.astype(accumulation_dtype(x.dtype))) for x in arrays]
    truth, found = define(*wide[:7]), wide[7:]
    errors = [
        float(np.max(np.abs(x - true)) / (np.max(np.abs(true)) or 1))
        for x, true in zip(found, truth, strict=True)
    ]
    return Errors(errors[0], errors[1], max(errors[2:]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--length", type=int, default=20_000)
    parser.add_argument("--implementation", choices=list(IMPLEMENTATIONS))
    asked = parser.parse_args()
    table = Table("regime", "dtype", "values", "states", "gradients")
    for name, regime in REGIMES.items():
        for dtype in DTYPES:
            errors = measure(regime, dtype, asked.length, asked.implementation)
            table.add_row(name, dtype, *(f"{x:.1e}" for x in errors))
    title = f"{asked.length:,} tokens, {asked.implementation or 'the chosen one'}"
    Console().print(title, table)


if __name__ == "__main__":
    main()
