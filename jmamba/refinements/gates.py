"""Input and output gates of a chosen sign as parameters of a mixer."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.layers.norm import Precision
from jmamba.models.mamba.config import MambaConfig
from jmamba.models.vim.config import VimConfig
from jmamba.refinements.definite import (
    EPSILON,
    MODES,
    SEMIDEFINITE,
    THRESHOLD,
    DefiniteGates,
    definite_gates,
    draw_gates,
    pack_live,
    semidefinite_gate,
    unpack_live,
)

Matrices = tuple[Float[Array, "n d"], Float[Array, "n d"]]
"""S_B and S_C, the rows of a mixer's input projection that make B and C."""


class SymmetricGates(nnx.Module):
    """S_B and S_C with S_C^T S_B = U^T diag(d) U, d of chosen signs.

    `P` holds the entries of U above its unit diagonal, row by row, and `v` what d is
    made from: every entry counts, none is read over.

    References:
      Vo et al., arXiv 2410.03292, section 5.1; `definite_gates`.
    """

    def __init__(self, config, *, precision: Precision, rngs: nnx.Rngs):
        n, d = config.d_state, config.d_inner
        key, dtype = rngs.params(), precision.sensitive
        drawn = jax.tree.map(lambda x: x[0], draw_gates(1, n, d, key=key, dtype=dtype))
        self.P = nnx.Param(pack_live(drawn.P).astype(precision.param))
        self.v = nnx.Param(drawn.v)
        self.config = config

    def __call__(self) -> Matrices:
        """Return S_B and S_C in the dtype of v, which is float32 at least."""
        config, v = self.config, self.v[...]
        P = unpack_live(self.P[...].astype(v.dtype), config.d_state, config.d_inner)
        return definite_gates(
            DefiniteGates(P, v),
            config.definite,
            threshold=choose_threshold(config),
            equal_magnitudes=True,  # the threshold says where there is none
        )


class SemidefiniteGates(nnx.Module):
    """A free S_B, and S_C = +-K S_B with a positive definite symmetric part of K.

    `K` is not K itself: its lower triangle is L and its strictly upper one T of
    `semidefinite_gate`, so that every entry counts. It starts as the identity.
    """

    def __init__(self, config, *, precision: Precision, rngs: nnx.Rngs):
        n, d = config.d_state, config.d_inner
        bound, dtype = d**-0.5, precision.param
        S_B = jax.random.uniform(rngs.params(), (n, d), dtype, -bound, bound)
        self.S_B = nnx.Param(S_B)
        self.K = nnx.Param(jnp.eye(n, dtype=precision.sensitive))
        self.config = config

    def __call__(self) -> Matrices:
        """Return S_B and S_C in the dtype of K, which is float32 at least."""
        K = self.K[...]
        S_B = self.S_B[...].astype(K.dtype)
        S_C = semidefinite_gate(
            S_B,
            jnp.tril(K),
            jnp.triu(K, 1),
            sign=SEMIDEFINITE[self.config.definite],
            epsilon=choose_threshold(self.config),
        )
        return S_B, S_C


def make_gates(
    config: MambaConfig | VimConfig, *, precision: Precision, rngs: nnx.Rngs
) -> SymmetricGates | SemidefiniteGates | None:
    """Return the gates that a configuration asks for, None for free ones."""
    if config.definite == "free":
        return None
    kind = SymmetricGates if config.definite in MODES else SemidefiniteGates
    return kind(config, precision=precision, rngs=rngs)


def choose_threshold(config: MambaConfig | VimConfig) -> float:
    """Return the least |d|, or the epsilon of K, of a configuration.

    Without a number it is the official one: 0.7, and none for "mixed", unless
    `equal_magnitudes` gives that the same.

    Examples:
      >>> sizes = {"vocab_size": 9, "d_model": 8, "num_layers": 1}
      >>> [choose_threshold(MambaConfig(**sizes, definite=mode, equal_magnitudes=equal))
      ...  for mode in ("neg", "mixed") for equal in (False, True)]
      [0.7, 0.7, 0.0, 0.7]
    """
    if config.definite_threshold is not None:
        return config.definite_threshold
    if config.definite in SEMIDEFINITE:
        return EPSILON
    has_none = config.definite == "mixed" and not config.equal_magnitudes
    return 0.0 if has_none else THRESHOLD
