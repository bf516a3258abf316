"""How kernels may be cut by hand: one frozen object for each, given instead of a name.

    selective_scan(..., implementation=TpuTiling(rows=8))

What is given here is not checked for speed. The defaults are the heuristics of
`tpu.layout` and `gpu.blocks`, which count bytes and registers.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class TpuTiling:
    """Sizes of the blocks a program of the TPU kernels works on.

    Attributes:
      rows: 128-channel rows in a block, 1 to 16; None for the heuristic `choose_rows`.
      chunks: saved chunks in a block of the forward kernel; the others use one.
      directions: tangents pushed together by one program.
    """

    rows: int | None = None
    chunks: int = 4
    directions: int = 4

    def __post_init__(self):
        """Raise where a size cannot be."""
        if self.rows is not None and not 1 <= self.rows <= 16:
            raise ValueError(f"TpuTiling: rows={self.rows} must be 1 to 16, or None.")
        for name in ("chunks", "directions"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"TpuTiling: {name}={getattr(self, name)} must be at least 1."
                )


@dataclass(frozen=True)
class GpuTiling:
    """How one map of the scan is cut into programs.

    Attributes:
      states_per_lane: p, states of one channel that a thread holds.
      num_warps: warps of a program, each with 32 p / n channels.
      tokens: tokens whose operands are read together and, in the cotangent, whose
        states are held at once. Divides `CHUNK`.
      segments: parts of the sequence that run in parallel (at most one per chunk).
    """

    states_per_lane: int
    num_warps: int
    tokens: int
    segments: int


class TritonTiling(GpuTiling):
    """How the Triton kernels are cut; see `GpuTiling`."""


class MosaicGpuTiling(GpuTiling):
    """How the Mosaic GPU kernels are cut; see `GpuTiling`. num_warps must be 4."""
