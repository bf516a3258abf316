"""The regime of a trained model on a text, layer by layer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jmamba.dynamics.trained.exponents import memory_horizons
from jmamba.dynamics.trained.signs import measure_signs
from jmamba.dynamics.trained.spectra import gate_spectrum, layer_system
from jmamba.dynamics.trained.trajectories import measure_trajectories
from jmamba.layers.model import LayeredModel
from jmamba.ops.meshes import on_any_mesh
from jmamba.tracing.trace import trace
from jmamba.types import ArrayLike, Tokens


class RegimeReport(NamedTuple):
    """What the theory asks of a layer, one number per layer.

    The first three come from the weights, the others from the text. They are None
    where the weights have no M = S_C^T S_B: where B and C are no linear maps of u, as
    in Mamba-2.

    Attributes:
      right: eigenvalues of M with a positive real part, of n that are not zero.
      radius: largest magnitude of an eigenvalue of M.
      positive_mass: share of the positive eigenvalues in the sum of magnitudes of those
        of M's symmetric part; their number is always half (see `count_inertia`).
      own: fraction of tokens with C[i].B[i] > 0.
      earlier: fraction of pairs j < i with C[i].B[j] > 0.
      weighted: mean sign of C[i].B[j], weighted by what the layer remembers.
      fast: fraction of positive step-size pre-activations.
      mean_delta: mean step size.
      horizon: median over channels and states of the tokens a state remembers.
      growth: mean of ln(|h out| / |h in|) over tokens.
    """

    right: Int[np.ndarray, "s"] | None
    radius: Float[np.ndarray, "s"] | None
    positive_mass: Float[np.ndarray, "s"] | None
    own: Float[np.ndarray, "s"]
    earlier: Float[np.ndarray, "s"]
    weighted: Float[np.ndarray, "s"]
    fast: Float[np.ndarray, "s"]
    mean_delta: Float[np.ndarray, "s"]
    horizon: Float[np.ndarray, "s"]
    growth: Float[np.ndarray, "s"]

    def columns(self) -> dict[str, np.ndarray]:
        """Return the numbers that there are, by name."""
        return {k: v for k, v in self._asdict().items() if v is not None}

    def as_table(self) -> str:
        """Return the report as aligned text, a row per layer."""
        columns = self.columns()
        rows = [["layer", *columns]]
        for i in range(len(self.growth)):
            values = (column[i] for column in columns.values())
            rows.append([str(i), *(f"{v:.3g}" for v in values)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True))
            for row in rows
        )


@on_any_mesh
def report_regimes(model: LayeredModel, tokens: Tokens | ArrayLike) -> RegimeReport:
    """Measure every layer of a model on a text.

    Args:
      model: the model.
      tokens: token ids; numbers are means over the texts.

    Raises:
      ValueError: tokens do not fit the model, or a layer is no recurrence.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> report = report_regimes(model, jnp.array([list(b"hello")]))
      >>> report.fast.tolist()  # step sizes are small, as initialised
      [0.0, 0.0]

    References:
      Vo et al., arXiv 2410.03292, sections 4 and 5, on data where counts of signs in
      the weights say nothing.
    """
    model.check_recurrent("report_regimes")
    inside = trace(model, tokens)
    signs = jax.lax.map(measure_signs, inside.recurrence)
    horizons = jax.lax.map(
        lambda recurrence: jnp.median(memory_horizons(recurrence)), inside.recurrence
    )
    growth = jnp.mean(measure_trajectories(inside).growth, axis=(1, 2))

    def mean(x):
        return np.asarray(jnp.mean(x, axis=1), np.float64)

    return RegimeReport(
        *_of_weights(model),
        own=mean(signs.own),
        earlier=mean(signs.earlier),
        weighted=mean(signs.weighted),
        fast=mean(signs.fast),
        mean_delta=mean(signs.mean_delta),
        horizon=np.asarray(horizons, np.float64),
        growth=np.asarray(growth, np.float64),
    )


def _of_weights(model: LayeredModel):
    """Return what the spectra of M say of each layer; None three times without M."""
    layers = range(model.config.num_layers)
    if not all(model.layer(i).mixer.gate_matrices() for i in layers):
        return None, None, None
    spectra = [gate_spectrum(layer_system(model, i)) for i in layers]
    eigenvalues = np.stack([s.eigenvalues for s in spectra])
    symmetric = np.stack([s.symmetric for s in spectra])
    mass = np.sum(np.abs(symmetric), axis=1)
    return (
        np.sum(np.real(eigenvalues) > 0, axis=1),
        np.max(np.abs(eigenvalues), axis=1),
        np.sum(np.maximum(symmetric, 0), axis=1) / mass,
    )
