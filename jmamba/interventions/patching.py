"""Patching one prompt into another everywhere: exactly, and by gradients."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jmamba.attention.question import PerSample, TargetChoice, ask, pick
from jmamba.interventions.edits import Edit, add, replace
from jmamba.interventions.names import locate_place
from jmamba.interventions.request import Inputs
from jmamba.interventions.running import capture
from jmamba.interventions.sweep_result import Sweep
from jmamba.interventions.sweeps import sweep
from jmamba.interventions.walking import read_edited, read_target
from jmamba.layers.model import LayeredModel


def sweep_patches(
    model: LayeredModel,
    clean: Inputs,
    corrupted: Inputs,
    name: str = "residual_out",
    over: Mapping[str, Sequence[int]] | None = None,
    *,
    target: TargetChoice = None,
    query: PerSample = None,
    **options: Any,
) -> Sweep:
    """Put what passes on the clean inputs into runs on the corrupted ones.

    Args:
      model: a model of texts or images.
      clean: inputs of which the prediction is asked for.
      corrupted: inputs that differ in what matters; as many tokens.
      name: of the place that is patched.
      over: axes and their entries, see `sweep`; None for all layers by all tokens.
      target: whose logit is read, a `MeanOf`, `Contrast` or `Continuation`, whose
        tokens are patched too; None for what is predicted on clean inputs.
      query: off which token it is read.
      **options: `file`, `memory_limit` and `progress` of `sweep`.

    Returns:
      A sweep whose `recovered` is 1 where patching restores the clean logit, and 0
      where it does nothing.

    Raises:
      ValueError: as in `sweep`, or the two inputs differ in shape.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> hello, jello = jnp.array([list(b"hello")]), jnp.array([list(b"jello")])
      >>> found = sweep_patches(model, hello, jello)
      >>> found.recovered[1, 4].round(3).tolist()  # the last layer's last token
      [1.0]

    References:
      Meng et al., "Locating and editing factual associations in GPT", arXiv
      2202.05262, section 2.1; Heimersheim & Nanda, "How to use and interpret activation
      patching", arXiv 2404.15255.
    """
    source, own = _pair(model, clean, corrupted)
    asked, other = (ask(model, x, target, query) for x in (source, own))
    kept = capture(model, asked.inputs, name)
    place = locate_place(model, name).place
    if over is None:
        over = {"positions": range(model.count_tokens(asked.inputs.shape))}
        if place not in model.outside:
            over = {"layers": range(model.config.num_layers), **over}
    goal, wanted = read_target(*asked)
    edit = replace(place.name, kept.values[place.name])
    options |= {"target": wanted, "query": other.query}
    made = sweep(model, other.inputs, edit, over, **options)
    return dataclasses.replace(
        made,
        goal=np.asarray(goal),
        title=f"clean {place.name} put into the corrupted run",
    )


def _pair(model: LayeredModel, clean: Inputs, corrupted: Inputs) -> tuple[Any, Any]:
    both = model.check_inputs(clean), model.check_inputs(corrupted)
    if both[0].shape != both[1].shape:
        raise ValueError(
            f"clean inputs have the shape {both[0].shape}, corrupted ones "
            f"{both[1].shape}; a patch goes from a token to that at the same place: "
            "give inputs of as many tokens."
        )
    return both


class AttributedPatches(NamedTuple):
    """What patching would change, to first order.

    Attributes:
      values: of every layer, sample and token; of a place outside of the layers without
        the first axis.
      base: the logit of the corrupted run.
    """

    values: Float[Array, "*s b l"]
    base: Float[Array, "b"]


def attribution_patching(
    model: LayeredModel,
    clean: Inputs,
    corrupted: Inputs,
    name: str = "residual_out",
    *,
    target: TargetChoice = None,
    query: PerSample = None,
) -> AttributedPatches:
    """Estimate what `sweep_patches` measures, from one gradient.

        change[layer, i] = (clean[layer, i] - corrupted[layer, i]) . d logit / d value

    of the corrupted run. `patching_error` says how far it is off.

    Args:
      model, clean, corrupted, name, target, query: as in `sweep_patches`.

    Raises:
      ValueError: as in `sweep_patches`, or the place is not one array with tokens.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> hello, jello = jnp.array([list(b"hello")]), jnp.array([list(b"jello")])
      >>> attribution_patching(model, hello, jello).values.shape
      (2, 1, 5)

    References:
      Nanda, "Attribution patching", 2023; Syed, Rager & Conmy, "Attribution patching
      outperforms automated circuit discovery", arXiv 2310.10348, section 2.
    """
    clean, corrupted = _pair(model, clean, corrupted)
    place = locate_place(model, name).place
    asked, other = (ask(model, x, target, query) for x in (clean, corrupted))
    kept, own = (capture(model, one.inputs, place.name) for one in (asked, other))
    _, wanted = read_target(*asked)
    difference = kept[place.name] - own[place.name]
    edit = add(place.name, difference)
    return AttributedPatches(
        *_attribute(*other[:3], edit=edit, query=other.query, target=wanted)
    )


@partial(jax.jit, static_argnames="graphdef")
def _attribute(graphdef, state, inputs, edit: Edit, query, target):
    model = nnx.merge(graphdef, state)

    def measure(value):
        chosen = dataclasses.replace(edit, value=value)
        own = pick(read_edited(model, inputs, [chosen], query), target)
        return jnp.sum(own), own

    slope, base = jax.grad(measure, has_aux=True)(jnp.zeros_like(edit.value))
    is_inside = edit.point.name not in {place.name for place in model.outside}
    axes = tuple(range(2 + is_inside, slope.ndim))
    return jnp.sum(slope * edit.value, axis=axes), base


class PatchingError(NamedTuple):
    """How far an estimate of patching is from the exact sweep.

    Attributes:
      correlation: Pearson's, over all points and samples.
      worst: the largest difference, as a share of the largest exact change.
    """

    correlation: float
    worst: float


def patching_error(estimate: AttributedPatches, exact: Sweep) -> PatchingError:
    """Compare an estimate of patching with the sweep that it estimates.

    Args:
      estimate: of `attribution_patching`.
      exact: of `sweep_patches` over all layers by all tokens of the same inputs.

    Raises:
      ValueError: the two are not of the same points.

    Examples:
      >>> exact = Sweep(np.array([[[1.0], [3.0]]]), np.array([1.0]), {}, "")
      >>> estimate = AttributedPatches(jnp.array([[[0.0, 1.0]]]), exact.base)
      >>> patching_error(estimate, exact)
      PatchingError(correlation=1.0, worst=0.5)
    """
    guessed = np.moveaxis(np.asarray(estimate.values, np.float64), -2, -1)  # s b l
    change = np.asarray(exact.change, np.float64)
    if guessed.shape != change.shape:
        raise ValueError(
            f"The estimate is of {guessed.shape} points and samples, the sweep of "
            f"{change.shape}; sweep over all layers and positions."
        )
    correlation = np.corrcoef(guessed.ravel(), change.ravel())[0, 1]
    worst = np.abs(guessed - change).max() / np.abs(change).max()
    return PatchingError(round(float(correlation), 6), round(float(worst), 6))
