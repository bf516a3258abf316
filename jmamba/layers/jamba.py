"""The mixer of Jamba: Mamba-1's with norms in its selection."""

from collections.abc import Mapping
from typing import ClassVar

from flax import nnx
from jaxtyping import Array, Float

from jmamba.layers.mamba import MambaMixer
from jmamba.layers.norm import Precision, RMSNorm
from jmamba.layers.selection import GateMatrices
from jmamba.layers.sizes import MixerSizes


class JambaMixer(MambaMixer):
    """The mixer of Mamba-1 that normalises dt, B and C, each with weights of its own.

    Args:
      sizes: of the mixer.
      eps: of these norms.
      precision: dtypes.
      rngs: source of the initial weights.

    References:
      Lieber et al., "Jamba", arXiv 2403.19887, section 6.4.
    """

    letters: ClassVar[Mapping[str, str]] = {
        **MambaMixer.letters,
        **{"dt_norm.scale": "r", "B_norm.scale": "n", "C_norm.scale": "n"},
    }

    def __init__(
        self, sizes: MixerSizes, *, eps: float, precision: Precision, rngs: nnx.Rngs
    ):
        super().__init__(sizes, precision=precision, rngs=rngs)
        self.dt_norm = RMSNorm(sizes.dt_rank, eps=eps, precision=precision)
        self.B_norm = RMSNorm(sizes.d_state, eps=eps, precision=precision)
        self.C_norm = RMSNorm(sizes.d_state, eps=eps, precision=precision)

    def normalise(
        self,
        dt: Float[Array, "b l r"],
        B: Float[Array, "b l n"],
        C: Float[Array, "b l n"],
    ) -> tuple[Float[Array, "b l r"], Float[Array, "b l n"], Float[Array, "b l n"]]:
        """Return dt, B and C over their RMS, times the norms' weights."""
        return self.dt_norm(dt), self.B_norm(B), self.C_norm(C)

    def gate_matrices(self) -> tuple[GateMatrices, ...]:
        """Return nothing: B, C and delta are no linear maps of u."""
        return ()
