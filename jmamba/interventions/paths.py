"""Patching one path between two points of a model."""

import dataclasses

import numpy as np

from jmamba.interventions.captured import Captured
from jmamba.interventions.edits import Edit, replace
from jmamba.interventions.names import locate_place
from jmamba.interventions.points import Point
from jmamba.interventions.ready import patch
from jmamba.interventions.request import Inputs
from jmamba.interventions.running import capture, run
from jmamba.layers.model import LayeredModel


def patch_path(
    model: LayeredModel,
    inputs: Inputs,
    other: Inputs,
    sender: Point,
    receiver: Point,
) -> Captured:
    """Patch what a point sends to a later one, and only on the way straight there.

    The sender takes what passes there in the run on other inputs; all layers between
    the two put out what they do on these inputs, so that what reaches the receiver has
    come along the residual stream. The receiver's value then stands in a run that is
    otherwise that of these inputs.

    Args:
      model: a model of texts or images.
      inputs: of the run that is changed.
      other: of the run that the sender's value is of; as many tokens.
      sender: a point of one layer.
      receiver: a point of a later layer, or of the same layer behind the sender.

    Returns:
      The logits of the changed run.

    Raises:
      ValueError: inputs do not fit, a point is not of one layer, or the receiver does
        not come after the sender.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=3)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> hello, world = jnp.array([list(b"hello")]), jnp.array([list(b"world")])
      >>> sender, receiver = Point("output", layers=0), Point("delta", layers=2)
      >>> patch_path(model, hello, world, sender, receiver).logits.shape
      (1, 5, 256)

    References:
      Wang et al., "Interpretability in the wild", arXiv 2211.00593, section 3.
    """
    sender, first = _one_layer(model, sender)
    receiver, last = _one_layer(model, receiver)
    order = [place.name for place in model.places]
    if (first, order.index(sender.name)) >= (last, order.index(receiver.name)):
        raise ValueError(
            f"The receiver ({receiver.name!r} of layer {last}) does not come after the "
            f"sender ({sender.name!r} of layer {first}); exchange them."
        )
    source = capture(model, other, sender.name, layers=[first])
    edits: list[Edit] = [patch(sender.name, source, **_where(sender))]
    between = list(range(first + 1, last))
    if between:
        usual = capture(model, inputs, "output", layers=between)
        edits.append(patch("output", usual))
    reached = run(model, inputs, edits, names=receiver.name, layers=[last])
    arrived = replace(receiver.name, reached.values[receiver.name], **_where(receiver))
    return run(model, inputs, arrived)


def _one_layer(model: LayeredModel, point: Point) -> tuple[Point, int]:
    """Return a point by this package's name, and its one layer."""
    place, layer, _ = locate_place(model, point.name)
    chosen = point.layers if layer is None else layer
    numbers = np.atleast_1d(np.asarray([] if chosen is None else chosen))
    if numbers.size != 1:
        raise ValueError(
            f"{point.name!r} of a path is a point of one layer; give "
            f"Point({point.name!r}, layers=3)."
        )
    count = model.config.num_layers
    layer = int(numbers[0]) % count
    return dataclasses.replace(point, name=place.name, layers=[layer]), layer


def _where(point: Point) -> dict:
    return {k: v for k, v in vars(point).items() if k != "name" and v is not None}
