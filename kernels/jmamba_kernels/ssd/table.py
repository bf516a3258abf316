"""The table of implementations of Mamba-2's recurrence."""

import importlib
from functools import cache

from jmamba_kernels.selective_scan.contract import Implementation
from jmamba_kernels.selective_scan.table import ALIASES
from jmamba_kernels.selective_scan.table import IMPLEMENTATIONS as SCANS
from jmamba_kernels.targets import Target

SSD_IMPLEMENTATIONS = ("reference", "xla_chunked")
"""Names; each is a module here that holds an implementation of the same name."""

MISSING = tuple(sorted({*SCANS, *ALIASES} - {*SSD_IMPLEMENTATIONS, "xla"}))
"""Names of the selective scan's implementations that have no counterpart here."""


@cache
def load_ssd(name: str) -> Implementation:
    """Return an implementation by name, importing it when it is first asked for.

    Args:
      name: one of `SSD_IMPLEMENTATIONS`.
    """
    return getattr(importlib.import_module(f"jmamba_kernels.ssd.{name}"), name)


def choose_ssd(
    implementation: str | None, target: Target | str, *, dtype="float32"
) -> tuple[str, Implementation]:
    """Return the implementation to run, and its name: everywhere plain XLA.

    Args:
      implementation: one of `SSD_IMPLEMENTATIONS`, "xla", or None.
      target: what the program is lowered for; every platform has the same.
      dtype: of the operands; XLA serves all of them.

    Raises:
      NotImplementedError: a kernel of the selective scan is named, which this
        recurrence does not have.
      ValueError: the name is unknown.
    """
    if implementation in (None, "xla"):
        implementation = "xla_chunked"
    if implementation in MISSING:
        raise NotImplementedError(
            f"{implementation} is an implementation of selective_scan, which ssd does "
            "not have: plain XLA serves it on every device. Give implementation=None, "
            "or 'xla'."
        )
    if implementation not in SSD_IMPLEMENTATIONS:
        raise ValueError(
            f"Unknown implementation {implementation!r}. Give None or one of "
            f"{', '.join(sorted([*SSD_IMPLEMENTATIONS, 'xla']))}."
        )
    return implementation, load_ssd(implementation)
