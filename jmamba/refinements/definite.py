"""Gates whose matrix M = S_C^T S_B has chosen signs: excluding a scenario."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jmamba.refinements.signs import EPSILON, MODES, THRESHOLD, say_too_many


class DefiniteGates(NamedTuple):
    """Free parameters of gates with M = U^T diag(d) U.

    Attributes:
      P: U is its strictly upper part and ones on the diagonal; the rest is not read.
      v: d comes from softplus(v).
    """

    P: Float[Array, "*s n d"]
    v: Float[Array, "*s n"]


def draw_gates(
    layers: int, states: int, channels: int, *, key: Array, dtype=jnp.float32
) -> DefiniteGates:
    """Draw parameters as the official code does, uniform within 1 / sqrt(channels).

    Args:
      layers: how many layers, a leading axis.
      states: n.
      channels: d, n at least.
      key: randomness.
      dtype: of the parameters.

    Raises:
      ValueError: there are more states than channels.

    Examples:
      >>> gates = draw_gates(2, 3, 8, key=jax.random.key(0))
      >>> gates.P.shape, gates.v.shape
      ((2, 3, 8), (2, 3))
    """
    if states > channels:
        raise ValueError(say_too_many(states, channels))
    first, second = jax.random.split(key)
    bound = channels**-0.5
    P = jax.random.uniform(first, (layers, states, channels), dtype, -bound, bound)
    v = jax.random.uniform(second, (layers, states), dtype, -bound, bound)
    return DefiniteGates(P, v)


def signed_scales(
    v: Float[Array, "*s n"],
    mode: str,
    *,
    threshold: float = THRESHOLD,
    equal_magnitudes: bool = False,
) -> Float[Array, "*s n"]:
    """Return d, whose signs are those of the non-zero eigenvalues of M.

        pos    softplus(v) + threshold
        neg    -(softplus(v) + threshold)
        mixed  e softplus(v), e = 1 for the first n // 2 and -1 for the others

    Args:
      v: free parameters.
      mode: a name of `MODES`.
      threshold: least magnitude.
      equal_magnitudes: whether "mixed" gets the threshold, too. The official code
        leaves it out there, so that its three models differ in scale and not in sign
        alone.

    Raises:
      ValueError: the mode is unknown.

    Examples:
      >>> [round(float(d), 4) for d in signed_scales(jnp.zeros(2), "mixed")]
      [0.6931, -0.6931]
      >>> d = signed_scales(jnp.zeros(2), "mixed", equal_magnitudes=True)
      >>> [round(float(d), 4) for d in d]
      [1.3931, -1.3931]

    References:
      Vo et al., arXiv 2410.03292, section 5.1, and its official code.
    """
    if mode not in MODES:
        raise ValueError(f"Unknown mode {mode!r}; give one of {', '.join(MODES)}.")
    states = v.shape[-1]
    signs = {"pos": np.ones(states), "neg": -np.ones(states)}
    signs["mixed"] = np.where(np.arange(states) < states // 2, 1.0, -1.0)
    has_threshold = equal_magnitudes or mode != "mixed"
    size = jax.nn.softplus(v) + (threshold if has_threshold else 0.0)
    return size * jnp.broadcast_to(jnp.asarray(signs[mode], v.dtype), v.shape)


def definite_gates(
    gates: DefiniteGates,
    mode: str,
    *,
    threshold: float = THRESHOLD,
    equal_magnitudes: bool = False,
) -> tuple[Float[Array, "*s n d"], Float[Array, "*s n d"]]:
    """Return S_B and S_C with M = S_C^T S_B = U^T diag(d) U.

    M is symmetric, with n eigenvalues of the signs of d and d - n zeros, whatever the
    parameters. "Positive definite" means semidefinite here, as n < d.

    Args:
      gates: free parameters.
      mode: a name of `MODES`.
      threshold: see `signed_scales`.
      equal_magnitudes: see `signed_scales`.

    Raises:
      ValueError: the mode is unknown.

    Examples:
      >>> gates = DefiniteGates(jnp.ones((2, 3)), jnp.zeros(2))
      >>> S_B, S_C = definite_gates(gates, "neg")
      >>> S_C.tolist()
      [[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]
      >>> [round(float(v), 4) for v in S_B[1]]
      [-0.0, -1.3931, -1.3931]

    References:
      Vo et al., arXiv 2410.03292, section 5.1 (LDL^T form), and its official code.
    """
    states, channels = gates.P.shape[-2:]
    live = jnp.asarray(live_entries(states, channels))
    eye = jnp.eye(states, channels, dtype=gates.P.dtype)
    shape = gates.P.shape
    U = jnp.where(jnp.broadcast_to(live, shape), gates.P, jnp.broadcast_to(eye, shape))
    d = signed_scales(
        gates.v, mode, threshold=threshold, equal_magnitudes=equal_magnitudes
    )
    return d[..., None] * U, U


def live_entries(states: int, channels: int) -> Bool[np.ndarray, "n d"]:
    """Return which entries of P are read: those above the diagonal.

    Only these should decay in training; all others have no gradient.

    Examples:
      >>> live_entries(2, 3).tolist()
      [[False, True, True], [False, False, True]]
    """
    return np.triu(np.ones((states, channels), bool), 1)


def gate_decay_mask(gates: DefiniteGates) -> DefiniteGates:
    """Return 1 where weight decay applies and 0 where not, shaped like the gates.

    Dead entries of P do not decay, and neither does v, which sets a scale. Multiply a
    decay term by it: optax's masks are of whole arrays.

    Examples:
      >>> mask = gate_decay_mask(DefiniteGates(jnp.ones((2, 3)), jnp.zeros(2)))
      >>> mask.P.tolist(), mask.v.tolist()
      ([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]], [0.0, 0.0])
    """
    live = jnp.asarray(live_entries(*gates.P.shape[-2:]), gates.P.dtype)
    return DefiniteGates(jnp.broadcast_to(live, gates.P.shape), jnp.zeros_like(gates.v))


def semidefinite_gate(
    S_B: Float[Array, "n d"],
    L: Float[Array, "n n"],
    T: Float[Array, "n n"],
    *,
    sign: int = 1,
    epsilon: float = EPSILON,
) -> Float[Array, "n d"]:
    """Return S_C = +-K S_B, which makes the symmetric part of M semidefinite.

        K = L L^T + epsilon + T - T^T,  so that K + K^T > 0

    More general than `definite_gates`: M need not be symmetric, S_B is free, and every
    semidefinite M of that rank can be had.

    Args:
      S_B: input gates' weights.
      L: any matrix; its lower triangle suffices.
      T: any matrix; only its antisymmetric part counts.
      sign: 1 for positive, -1 for negative eigenvalues of the symmetric part.
      epsilon: keeps all n of them away from zero.

    Raises:
      ValueError: sign is neither 1 nor -1.

    Examples:
      >>> S_C = semidefinite_gate(jnp.eye(2), jnp.eye(2), jnp.eye(2, k=1), epsilon=0.0)
      >>> S_C.tolist()
      [[1.0, 1.0], [-1.0, 1.0]]

    References:
      M_s = S_B^T K_s S_B: if S_B has full row rank, M_s >= 0 exactly if S_C = K S_B
      with K + K^T >= 0.
    """
    if sign not in (1, -1):
        raise ValueError(f"sign={sign}: give 1 or -1.")
    eye = jnp.eye(len(L), dtype=L.dtype)
    K = L @ L.T + epsilon * eye + T - T.T
    return sign * (K @ S_B)


def pack_live(P: Float[Array, "*s n d"]) -> Float[Array, "*s p"]:
    """Return the entries of P above the diagonal, row by row: those that are read.

    Examples:
      >>> pack_live(jnp.arange(6.0).reshape(2, 3)).tolist()
      [1.0, 2.0, 5.0]
    """
    rows = (P[..., i, i + 1 :] for i in range(P.shape[-2]))
    return jnp.concatenate(list(rows), axis=-1)


def unpack_live(
    packed: Float[Array, "*s p"], states: int, channels: int
) -> Float[Array, "*s n d"]:
    """Return P from its entries above the diagonal, all others zero.

    Examples:
      >>> unpack_live(jnp.array([1.0, 2.0, 5.0]), 2, 3).tolist()
      [[0.0, 1.0, 2.0], [0.0, 0.0, 5.0]]
    """
    rows, start = [], 0
    before = [(0, 0)] * (packed.ndim - 1)
    for i in range(states):  # slices and padding: a scatter would be slower
        row = packed[..., start : start + channels - 1 - i]
        rows.append(jnp.pad(row, [*before, (i + 1, 0)]))
        start += channels - 1 - i
    return jnp.stack(rows, axis=-2)
