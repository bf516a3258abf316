"""Gates of chosen signs in a model that is there: given ones, and near ones."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jmamba.dynamics.theory.system import TokenSystem
from jmamba.models.mamba.model import MambaLM
from jmamba.models.skeleton import parameters_of
from jmamba.models.vim.model import Vim
from jmamba.refinements.definite import DefiniteGates, pack_live, signed_scales
from jmamba.refinements.signs import SEMIDEFINITE, THRESHOLD
from jmamba.surgery.rebuilding import rebuild, selections_of, stacked_W_x
from jmamba_kernels import accumulation_dtype


class ProjectedGates(NamedTuple):
    """Gates near given ones, and how near.

    Attributes:
      gates: free parameters.
      error: |M' - M| / |M|, for what the parameters make of M.
    """

    gates: DefiniteGates
    error: float


def project_gates(
    system: TokenSystem, mode: str, *, threshold: float = THRESHOLD
) -> ProjectedGates:
    """Return definite gates near those of a trained layer: a start, no more.

    S_C = L R is factored without pivoting, so that M = U^T E with U unit upper and
    E = D L^T S_B; each row of E is replaced by the nearest multiple of the same row of
    U, and multiples of the wrong sign by the least of the right one. What is lost is
    in `error`, and it is most of M for weights that were trained without constraints.

    Args:
      system: `layer_system(model, i)`.
      mode: a name of `MODES`.
      threshold: least magnitude of d, for all modes.

    Raises:
      ValueError: the mode is unknown, or S_C cannot be factored.

    Examples:
      >>> from jmamba.dynamics import definite_gates, draw_gates
      >>> gates = draw_gates(1, 2, 4, key=jax.random.key(0))
      >>> S_B, S_C = definite_gates(gates, "pos")
      >>> system = TokenSystem(S_B[0], S_C[0], jnp.eye(4), -jnp.ones((4, 2)), S_B[0, 0])
      >>> project_gates(system, "pos").error < 1e-5
      True
    """
    S_B, S_C = (np.asarray(x, np.float64) for x in (system.S_B, system.S_C))
    U, v, d = _nearest_symmetric(S_B, S_C, mode, threshold)
    dtype = system.S_B.dtype
    gates = DefiniteGates(jnp.asarray(U, dtype), jnp.asarray(v, dtype))
    return ProjectedGates(gates, _error(d[:, None] * U, U, S_B, S_C))


def _nearest_symmetric(S_B, S_C, mode, threshold):
    """Return U, v and d; see `project_gates`."""
    signs = np.sign(np.asarray(signed_scales(jnp.ones(len(S_C)), mode)))
    states = len(S_C)
    lower, R = np.eye(states), S_C.copy()
    for i in range(states):
        if abs(R[i, i]) < 1e-12 * np.abs(R).max():
            raise ValueError(
                f"S_C cannot be factored: pivot {i} is zero. Its first {states} "
                "columns must have non-singular leading blocks; start from "
                "draw_gates(...)."
            )
        lower[i + 1 :, i] = R[i + 1 :, i] / R[i, i]
        R[i + 1 :] -= np.outer(lower[i + 1 :, i], R[i])
    pivots = np.diag(R).copy()
    U = R / pivots[:, None]
    E = pivots[:, None] * (lower.T @ S_B)
    wanted = np.sum(E * U, axis=1) / np.sum(U * U, axis=1)
    rest = np.maximum(signs * wanted - threshold, 1e-4)
    v = rest + np.log(-np.expm1(-rest))  # the inverse of softplus
    return U, v, signs * (rest + threshold)


def _nearest_semidefinite(S_B, S_C, sign, epsilon):
    """Return what `SemidefiniteGates` calls K, and K itself: S_B stays as it is.

    K is the best of S_C = +-K S_B, eigenvalues of its symmetric part below epsilon
    lifted to it.
    """
    K = sign * S_C @ np.linalg.pinv(S_B)
    values, Q = np.linalg.eigh((K + K.T) / 2)
    rest = np.maximum(values - epsilon, 1e-6 * np.abs(values).max())
    skew = (K - K.T) / 2
    L = np.linalg.cholesky((Q * rest) @ Q.T)
    return L + np.triu(skew, 1), (Q * (rest + epsilon)) @ Q.T + skew


def _error(S_B, S_C, old_S_B, old_S_C) -> float:
    M = old_S_C.T @ old_S_B
    return float(np.linalg.norm(S_C.T @ S_B - M) / np.linalg.norm(M))


class ProjectedModel(NamedTuple):
    """A model with gates near those of another, and how near.

    Attributes:
      model: with gates of the chosen signs, to be trained on.
      errors: |M' - M| / |M| of every layer, and of both directions of an image's model.
    """

    model: MambaLM | Vim
    errors: Float[np.ndarray, "*side s"]


def project_from_pretrained(
    model: MambaLM | Vim,
    mode: str,
    *,
    threshold: float | None = None,
    equal_magnitudes: bool = False,
) -> ProjectedModel:
    """Return a model whose gates have chosen signs, near a free one: a start, no more.

    Everything but B and C is taken over. For "pos", "neg" and "mixed" see
    `project_gates`: for weights trained without constraints most of M is lost. For
    "psd_general" and "nsd_general" S_B is kept, and S_C = +-K S_B with the K nearest
    to S_C S_B^+ whose symmetric part is positive: about half of M.

    Args:
      model: a free model, which is not changed.
      mode: "pos", "neg", "mixed", "psd_general" or "nsd_general".
      threshold: the configuration's `definite_threshold`; None for the official one.
      equal_magnitudes: the configuration's.

    Raises:
      ValueError: the model has such gates already, the mode is unknown, or a layer's
        S_C cannot be factored.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> start = project_from_pretrained(model, "neg")
      >>> start.model.config.definite, start.errors.shape
      ('neg', (2,))
    """
    if model.config.definite != "free":
        raise ValueError(
            f"The model's gates are {model.config.definite!r} already; give "
            "as_free(model) to make others of them."
        )
    fields = {
        "definite": mode,
        "definite_threshold": threshold,
        "equal_magnitudes": equal_magnitudes,
    }
    config = dataclasses.replace(model.config, **fields)
    if mode == "free":
        raise ValueError("definite='free': the model is free; give another mode.")
    arrays, errors = parameters_of(model), []
    for path, selection in selections_of(model).items():
        W_x = stacked_W_x(selection)  # s d r+2n
        gates, wrong = _project_layers(W_x, config)
        arrays[*path, "x_proj", "kernel"] = W_x[..., : config.dt_rank]
        arrays |= {(*path, "gates", name): value for name, value in gates.items()}
        errors.append(wrong)
    errors = np.array(errors) if len(errors) > 1 else np.array(errors[0])
    return ProjectedModel(rebuild(model, arrays, **fields), errors)


def _project_layers(W_x, config):
    """Return the stacked parameters of gates near those of W_x, and the errors."""
    r, n = config.dt_rank, config.d_state
    least, made, errors = config.threshold, [], []
    for layer in np.swapaxes(np.asarray(W_x.astype(jnp.float32), np.float64), 1, 2):
        S_B, S_C = layer[r : r + n], layer[r + n :]
        if config.definite in SEMIDEFINITE:
            sign = SEMIDEFINITE[config.definite]
            packed, K = _nearest_semidefinite(S_B, S_C, sign, least)
            made.append({"S_B": S_B, "K": packed})
            errors.append(_error(S_B, sign * K @ S_B, S_B, S_C))
        else:
            U, v, d = _nearest_symmetric(S_B, S_C, config.definite, least)
            made.append({"P": np.asarray(pack_live(jnp.asarray(U))), "v": v})
            errors.append(_error(d[:, None] * U, U, S_B, S_C))
    wide = accumulation_dtype(W_x.dtype)
    dtypes = {"S_B": W_x.dtype, "P": W_x.dtype, "K": wide, "v": wide}
    stacked = {
        name: jnp.asarray(np.stack([one[name] for one in made]), dtypes[name])
        for name in made[0]
    }
    return stacked, errors


def with_gates(
    model: MambaLM,
    S_B: Float[Array, "s n d"],
    S_C: Float[Array, "s n d"],
) -> MambaLM:
    """Return a model with given gates in all layers; it is not changed.

    Differentiable: `grad` of a loss of with_gates(model, *definite_gates(gates, mode))
    trains the gates. What comes out is an ordinary model, which saves and loads as
    any other, its gates being what they are.

    Args:
      model: the model.
      S_B: weights of the input gates of every layer.
      S_C: weights of the output gates.

    Raises:
      ValueError: shapes do not fit the model, or it makes its own gates.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> from jmamba.dynamics import definite_gates, draw_gates
      >>> gates = draw_gates(2, 16, 32, key=jax.random.key(0))
      >>> positive = with_gates(model, *definite_gates(gates, "pos"))
      >>> from jmamba.dynamics import count_inertia, layer_system
      >>> count_inertia(layer_system(positive, 0), tolerance=1e-4)
      Inertia(positive=16, negative=0, zero=16)

    References:
      Vo et al., arXiv 2410.03292, section 5.1: the constraint is on W_x's last 2n rows.
    """
    c = model.config
    if c.definite != "free":
        raise ValueError(
            f"The model makes its own gates ({c.definite!r}); give as_free(model), or "
            "train the model itself."
        )
    shape = (c.num_layers, c.d_state, c.d_inner)
    if S_B.shape != shape or S_C.shape != shape:
        raise ValueError(
            f"S_B {S_B.shape} and S_C {S_C.shape} do not fit the model: both must be "
            f"{shape}, (layers, states, channels)."
        )
    graphdef, state = nnx.split(model)
    made = nnx.merge(graphdef, jax.tree.map(lambda x: x, state))
    kernel = made.layers.mixer.x_proj.kernel[...]  # s d r+2n
    rows = jnp.concatenate([S_B, S_C], axis=1).astype(kernel.dtype)
    rows = jnp.swapaxes(rows, 1, 2)  # s 2n d -> s d 2n
    made.layers.mixer.x_proj.kernel[...] = jnp.concatenate(
        [kernel[..., : c.dt_rank], rows], axis=-1
    )
    return made
