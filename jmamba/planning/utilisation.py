"""How much of what devices can do a training step uses."""

from typing import Any, NamedTuple

import jax

from jmamba.models.sharding import Sharding
from jmamba.planning.operations import count_work
from jmamba.planning.programs import Workload, make_call
from jmamba.planning.topologies import CHIPS

KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}
"""What JAX calls a device -> its name among `CHIPS`."""


GPU_FLOPS = {
    "V100 PCIE": 1.12e14,
    "V100 SXM2": 1.25e14,
    "T4": 6.5e13,
    "A10": 1.25e14,
    "A30": 1.65e14,
    "A100": 3.12e14,
    "L4": 1.21e14,
    "L40S": 3.62e14,
    "H100 PCIE": 7.56e14,
    "H100 NVL": 8.35e14,
    "H100 HBM3": 9.89e14,
    "H200": 9.89e14,
    "B200": 2.25e15,
}
"""Words of a GPU's name -> operations a second: dense products of bfloat16, of float16
on V100 and T4, which have no other of 16 bits.

References:
  NVIDIA's data sheet of each, where numbers for sparse matrices are twice as high.
"""


class Peak(NamedTuple):
    """A training step, and devices at their best.

    Attributes:
      step_flops: operations that a step needs, whatever is computed again.
      flops: operations a second of all devices, products of 16 bits.
    """

    step_flops: float
    flops: float

    def utilisation(self, seconds: float) -> float:
        """Return the model FLOPs utilisation of a step that took so long.

        Examples:
          >>> Peak(step_flops=1e12, flops=1e13).utilisation(0.5)
          0.2

        References:
          Chowdhery et al., "PaLM", arXiv 2204.02311, appendix B.
        """
        return self.step_flops / seconds / self.flops


def find_peak(config: Any, batch: int, length: int, devices: list[Any]) -> Peak | None:
    """Return what a step needs and devices can do, None where that is not known.

    Args:
      config: of the model.
      batch: rows of a step.
      length: tokens in each.
      devices: that it runs on.
    """
    flops = device_flops(devices[0].device_kind)
    if flops is None:
        return None
    return Peak(step_flops(config, batch, length), flops * len(devices))


def device_flops(kind: str) -> float | None:
    """Return the operations a second of a device at best, None if it is not known.

    Of a part of a GPU (MIG) nothing is known.

    Args:
      kind: what JAX calls it.

    Examples:
      >>> device_flops("NVIDIA A100-SXM4-40GB"), device_flops("TPU v5 lite")
      (312000000000000.0, 197000000000000.0)
      >>> device_flops("cpu")
    """
    if kind in KINDS:
        return CHIPS[KINDS[kind]].flops
    words = set(kind.upper().replace("-", " ").split())
    found = [name for name in GPU_FLOPS if words.issuperset(name.split())]
    return GPU_FLOPS[found[0]] if found and "MIG" not in words else None


def step_flops(config: Any, batch: int, length: int) -> int:
    """Return the operations of a training step's products, without recomputing any.

    Args:
      config: of the model.
      batch: rows.
      length: tokens in each.

    Examples:
      >>> from jmamba import MambaConfig
      >>> config = MambaConfig(vocab_size=8, d_model=4, num_layers=1)
      >>> step_flops(config, batch=2, length=4) / step_flops(config, batch=1, length=4)
      2.0
    """
    one = Sharding(devices=jax.devices()[:1])
    run, arguments = make_call(
        "train", Workload(config, one, batch, length, "float32", remat=False)
    )
    return count_work(run.trace(*arguments.values()).jaxpr).products
