"""Whether the scan that runs on this machine is right: its errors."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from jmamba.ops import selective_scan
from jmamba.report.environment import lowering_target
from jmamba_kernels import choose

LARGEST = {"value": 2e-5, "jvp": 1e-4, "gradient": 1e-4}
"""Errors allowed on hardware, relative to the largest magnitude, in float32."""


class Check(NamedTuple):
    """One comparison.

    Attributes:
      what: "value", "jvp" or "gradient", and of which operand or result.
      error: largest difference relative to the largest magnitude expected.
      allowed: what the error may be.
    """

    what: str
    error: float
    allowed: float

    @property
    def is_passed(self) -> bool:
        """Whether the error is small; never so for NaN."""
        return self.error <= self.allowed


def check_scan(implementation: str | None = None) -> list[Check]:
    """Compare the scan and its derivatives on this device with the definition.

    Args:
      implementation: which to check; None for the one that runs here.
    """
    operands = _draw_operands()
    actual = jax.jit(partial(_outcome, implementation))(operands)
    expected = jax.jit(partial(_outcome, "reference"))(operands)
    checks = []
    for what, allowed in LARGEST.items():
        for name, value in expected[what].items():
            error = _relative_error(actual[what][name], value)
            checks.append(Check(f"{what} of {name}", error, allowed))
    return checks


def show_checks(checks: list[Check]) -> Table:
    """Return the checks as a table."""
    name, _ = choose(None, lowering_target())
    title = f"{name} against the definition, on {jax.devices()[0].device_kind}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2))
    for column in ("", "error", "allowed", ""):
        table.add_column(column)
    for check in checks:
        mark = "[green]ok[/]" if check.is_passed else "[red]wrong[/]"
        table.add_row(check.what, f"{check.error:.1e}", f"{check.allowed:.0e}", mark)
    return table


def _draw_operands(length: int = 300, channels: int = 384, states: int = 16) -> dict:
    """Return operands of an awkward length, all optional ones among them."""
    draw = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(draw.standard_normal(shape, np.float32))

    over_time, gates = (2, length, channels), (2, length, states)
    rates = np.tile(np.arange(1, states + 1, dtype=np.float32), (channels, 1))
    return {
        "u": normal(*over_time),
        "delta": normal(*over_time) - 2,
        "A": -jnp.asarray(rates),
        "B": normal(*gates),
        "C": normal(*gates),
        "D": normal(channels),
        "z": normal(*over_time),
        "delta_bias": normal(channels),
        "initial_state": normal(2, channels, states),
    }


def _outcome(implementation, operands):
    def run(operands):
        y, last_state = selective_scan(
            **operands, delta_softplus=True, implementation=implementation
        )
        return {"y": y, "last_state": last_state}

    def loss(operands):
        return sum(jnp.sum(jnp.sin(x)) for x in run(operands).values())

    along = jax.tree.map(jnp.cos, operands)
    value, jvp = jax.jvp(run, (operands,), (along,))
    return {"value": value, "jvp": jvp, "gradient": jax.grad(loss)(operands)}


def _relative_error(actual, expected) -> float:
    return float(jnp.max(jnp.abs(actual - expected)) / jnp.max(jnp.abs(expected)))
