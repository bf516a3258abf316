"""The matrices of a trained layer that the theory speaks of, and their spectra."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from jmamba.dynamics.theory.system import TokenSystem
from jmamba.layers.model import LayeredModel
from jmamba.ops.meshes import on_any_mesh
from jmamba.requests import check_finite


@on_any_mesh
def layer_system(
    model: LayeredModel, index: int, *, direction: str = "forward"
) -> TokenSystem:
    """Return S_B, S_C, S_delta, A and the step-size bias of a layer.

        B[j] = S_B u[j],  C[i] = S_C u[i],  delta[j] = softplus(S_delta u[j] + bias)

    so that C[i].B[j] = u[i]^T M u[j]. The tokens they act on are u (l, d), the inputs
    of the recurrence, and not the residual stream. S_delta is dense here: d^2 numbers.

    In a Falcon-Mamba layer B, C and delta's argument are divided by a norm: products
    C.B differ from u^T M u by a positive factor per pair of tokens.

    Args:
      model: the model.
      index: which layer, negative ones from the end.
      direction: of Vim, whose layers have two: "forward" or "backward".

    Raises:
      IndexError: there is no such layer.
      ValueError: a weight is not finite, or there is no such direction.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> system = layer_system(model, 1)
      >>> system.S_B.shape, system.S_delta.shape, system.A.shape
      ((16, 32), (32, 32), (32, 16))

    References:
      Vo et al., arXiv 2410.03292, section 3; Gu & Dao, arXiv 2312.00752, section 3.2.
    """
    matrices = model.layer(index).mixer.gate_matrices()
    if not matrices:
        raise ValueError(
            f"Layer {index}: its B, C and delta are not linear maps of its u, so that "
            "there are no S_B, S_C and S_delta. The theory is of Mamba-1's selection."
        )
    directions = ("forward", "backward")[: len(matrices)]
    if direction not in directions:
        raise ValueError(
            f"direction={direction!r}: a layer of this model has "
            f"{' and '.join(directions)}."
        )
    system = TokenSystem(*matrices[directions.index(direction)])
    parts = {f"{name} of layer {index}": x for name, x in system._asdict().items()}
    check_finite(parts, "spectra")
    return system


class GateSpectrum(NamedTuple):
    """The non-zero spectra of M = S_C^T S_B and of its symmetric part.

    Attributes:
      eigenvalues: those of M, by descending real part.
      symmetric: those of (M + M^T) / 2, ascending.
      channels: how many eigenvalues there are in all, zeros included.
    """

    eigenvalues: Complex[np.ndarray, "*s n"]
    symmetric: Float[np.ndarray, "*s e"]
    channels: int


@on_any_mesh
def gate_spectrum(system: TokenSystem) -> GateSpectrum:
    """Return the non-zero eigenvalues of M and of its symmetric part, in float64.

        eig(S_C^T S_B)  = eig(S_B S_C^T)      and zeros, an n x n problem
        eig(M_s)        = eig(R J R^T / 2)    and zeros, a 2n x 2n problem

    with [S_B; S_C]^T = Q R and J = [[0, 1], [1, 0]]: no d x d matrix is ever formed.

    Args:
      system: `layer_system(model, i)`, or several with a leading axis.

    Examples:
      >>> S_B, S_C = jnp.array([[1.0, 0.0, 0.0]]), jnp.array([[0.0, 2.0, 0.0]])
      >>> system = TokenSystem(S_B, S_C, jnp.eye(3), -jnp.ones((3, 1)), jnp.zeros(3))
      >>> gate_spectrum(system).eigenvalues.real.tolist()
      [0.0]
      >>> [round(float(v), 6) for v in gate_spectrum(system).symmetric]
      [-1.0, 1.0]

    References:
      Vo et al., arXiv 2410.03292, section 4: the sign of these eigenvalues.
    """
    S_B, S_C = (np.asarray(x, np.float64) for x in (system.S_B, system.S_C))
    transpose = tuple(range(S_B.ndim - 2)) + (S_B.ndim - 1, S_B.ndim - 2)
    eigenvalues = np.linalg.eigvals(S_B @ S_C.transpose(transpose)).astype(complex)
    order = np.argsort(-np.real(eigenvalues), axis=-1, kind="stable")
    eigenvalues = np.take_along_axis(eigenvalues, order, axis=-1)
    F = np.concatenate([S_B, S_C], axis=-2)
    _, R = np.linalg.qr(F.transpose(transpose))  # R is min(d, 2n) 2n
    n = S_B.shape[-2]
    half = R[..., :n] @ np.swapaxes(R[..., n:], -1, -2) / 2
    symmetric = np.linalg.eigvalsh(half + np.swapaxes(half, -1, -2))
    return GateSpectrum(eigenvalues, symmetric, S_B.shape[-1])


class Inertia(NamedTuple):
    """How many eigenvalues of the symmetric part of M have which sign."""

    positive: int
    negative: int
    zero: int


@on_any_mesh
def count_inertia(system: TokenSystem, *, tolerance: float = 1e-10) -> Inertia:
    """Count the signs of the symmetric part of M.

    If [S_B; S_C] has full rank 2n <= d, there are n positive, n negative and d - 2n
    zero eigenvalues whatever the weights (Sylvester's law of inertia): the counts say
    nothing about a trained layer, magnitudes and data do.

    Args:
      system: `layer_system(model, i)`.
      tolerance: what counts as zero, relative to the largest.

    Examples:
      >>> draw = np.random.default_rng(0)
      >>> S_B, S_C = (jnp.asarray(v) for v in draw.standard_normal((2, 3, 10)))
      >>> system = TokenSystem(S_B, S_C, jnp.eye(10), -jnp.ones((10, 3)), jnp.zeros(10))
      >>> count_inertia(system)
      Inertia(positive=3, negative=3, zero=4)

    References:
      The paper's criterion is stated for n >= d; Horn & Johnson, "Matrix analysis",
      theorem 4.5.8.
    """
    values = gate_spectrum(system).symmetric
    small = tolerance * np.max(np.abs(values), initial=0.0)
    positive, negative = int((values > small).sum()), int((values < -small).sum())
    return Inertia(positive, negative, system.S_B.shape[-1] - positive - negative)


@on_any_mesh
def residual_matrix(
    model: LayeredModel, index: int, *, direction: str = "forward"
) -> Float[Array, "m m"]:
    """Return M as it acts on the residual stream: W^T M W with W of the input.

    The convolution, its activation and the norm are left out: this is a linearisation,
    exact where they are the identity.

    Args:
      model: the model.
      index: which layer, negative ones from the end.
      direction: of Vim, whose layers have two: "forward" or "backward".

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> residual_matrix(model, 0).shape
      (16, 16)

    References:
      Vo et al., arXiv 2410.03292, section 3, tokens being the residual stream.
    """
    system = layer_system(model, index, direction=direction)
    block = model.layer(index)
    width = model.config.d_model
    nothing = jnp.zeros(width, block.norm.compute)

    def read(n):  # linear, up to a bias
        return block.mixer.project(n[None, None]).convolutions[0].x[0, 0]

    W = jax.jacfwd(read)(nothing).T.astype(system.S_B.dtype)  # d m -> m d
    S_B, S_C = (
        jnp.einsum("nd,md->nm", S, W, precision="highest")
        for S in (system.S_B, system.S_C)
    )
    return jnp.einsum("nm,nk->mk", S_C, S_B, precision="highest")
