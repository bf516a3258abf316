"""Input and output gates of a chosen sign as parameters of a mixer."""

from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.layers.norm import Precision
from jmamba.layers.sizes import MixerSizes
from jmamba.refinements.definite import (
    DefiniteGates,
    definite_gates,
    draw_gates,
    pack_live,
    semidefinite_gate,
    unpack_live,
)
from jmamba.refinements.signs import MODES, SEMIDEFINITE, GateSigns

Matrices = tuple[Float[Array, "n d"], Float[Array, "n d"]]
"""S_B and S_C, the rows of a mixer's input projection that make B and C."""


class SymmetricGates(nnx.Module):
    """S_B and S_C with S_C^T S_B = U^T diag(d) U, d of chosen signs.

    `P` holds the entries of U above its unit diagonal, row by row, and `v` what d is
    made from: every entry counts, none is read over.

    References:
      Vo et al., arXiv 2410.03292, section 5.1; `definite_gates`.
    """

    letters: ClassVar[Mapping[str, str]] = {"P": "_", "v": "n"}

    def __init__(
        self,
        signs: GateSigns,
        sizes: MixerSizes,
        *,
        precision: Precision,
        rngs: nnx.Rngs,
    ):
        n, d = sizes.d_state, sizes.d_inner
        key, dtype = rngs.params(), precision.sensitive
        drawn = jax.tree.map(lambda x: x[0], draw_gates(1, n, d, key=key, dtype=dtype))
        self.P = nnx.Param(pack_live(drawn.P).astype(precision.param))
        self.v = nnx.Param(drawn.v)
        self.signs, self.shape = signs, (n, d)

    def __call__(self) -> Matrices:
        """Return S_B and S_C in the dtype of v, which is float32 at least."""
        v = self.v[...]
        P = unpack_live(self.P[...].astype(v.dtype), *self.shape)
        return definite_gates(
            DefiniteGates(P, v),
            self.signs.definite,
            threshold=self.signs.threshold,
            equal_magnitudes=True,  # the threshold says where there is none
        )


class SemidefiniteGates(nnx.Module):
    """A free S_B, and S_C = +-K S_B with a positive definite symmetric part of K.

    `K` is not K itself: its lower triangle is L and its strictly upper one T of
    `semidefinite_gate`, so that every entry counts. It starts as the identity.
    """

    letters: ClassVar[Mapping[str, str]] = {"S_B": "nd", "K": "nn"}

    def __init__(
        self,
        signs: GateSigns,
        sizes: MixerSizes,
        *,
        precision: Precision,
        rngs: nnx.Rngs,
    ):
        n, d = sizes.d_state, sizes.d_inner
        bound, dtype = d**-0.5, precision.param
        S_B = jax.random.uniform(rngs.params(), (n, d), dtype, -bound, bound)
        self.S_B = nnx.Param(S_B)
        self.K = nnx.Param(jnp.eye(n, dtype=precision.sensitive))
        self.signs, self.shape = signs, (n, d)

    def __call__(self) -> Matrices:
        """Return S_B and S_C in the dtype of K, which is float32 at least."""
        K = self.K[...]
        S_B = self.S_B[...].astype(K.dtype)
        S_C = semidefinite_gate(
            S_B,
            jnp.tril(K),
            jnp.triu(K, 1),
            sign=SEMIDEFINITE[self.signs.definite],
            epsilon=self.signs.threshold,
        )
        return S_B, S_C


def make_gates(
    signs: GateSigns, sizes: MixerSizes, *, precision: Precision, rngs: nnx.Rngs
) -> SymmetricGates | SemidefiniteGates | None:
    """Return gates of the chosen signs for one direction of a mixer, None for free.

    Args:
      signs: the choices.
      sizes: of the mixer.
      precision: dtypes.
      rngs: source of the initial weights.
    """
    if signs.definite == "free":
        return None
    kind = SymmetricGates if signs.definite in MODES else SemidefiniteGates
    return kind(signs.gate_signs, sizes, precision=precision, rngs=rngs)
