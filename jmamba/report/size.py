"""How large a model's layers are, whatever they are: what estimates of cost need."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jmamba.layers.model import LayeredModel
from jmamba.layers.recurrence import directions_of
from jmamba.types import GatedRecurrence, SideBySide, SoftmaxAttention


class Size(NamedTuple):
    """What a token meets on its way through all layers.

    Attributes:
      layers: how many there are.
      parameters: numbers in them.
      channels: of the recurrences of the widest layer, all directions together.
      states: numbers that the recurrences of all layers hold; softmax attention, which
        holds every token, is not counted.
    """

    layers: int
    parameters: int
    channels: int
    states: int

    @property
    def operations(self) -> float:
        """Operations of one token: two per parameter, about six per state."""
        return 2.0 * self.parameters + 6.0 * self.states


def size_of(model: LayeredModel) -> Size:
    """Return the size of a model's layers; arrays may be shapes without numbers.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=9, d_model=8, num_layers=2)
      >>> size = size_of(jmamba.MambaLM(config, rngs=nnx.Rngs(0)))
      >>> size.layers, size.channels, size.states
      (2, 16, 512)
    """
    parameters = channels = states = 0
    for run in model.runs():

        def project(parameters, run=run):
            block = run.open(jax.tree.map(lambda x: x[0], parameters))
            x = jnp.zeros((1, 1, model.config.d_model), block.norm.compute)
            return block.project(x).recurrence

        made = jax.eval_shape(project, run.parameters)
        count = run.layers.stop - run.layers.start
        parameters += sum(np.size(x) for x in jax.tree.leaves(run.parameters))
        softmax = 0
        if isinstance(made, SideBySide):
            made, softmax = made.recurrent, _channels(made.attention)
        if isinstance(made, SoftmaxAttention):
            channels = max(channels, _channels(made))
            continue
        if isinstance(made, GatedRecurrence):
            width = math.prod(made.values.shape[-2:])
            channels = max(channels, width)
            states += count * width * made.keys.shape[-1]
            continue
        sides = directions_of(made)
        channels = max(channels, softmax + sum(side.u.shape[-1] for side in sides))
        states += count * sum(side.u.shape[-1] * side.B.shape[-1] for side in sides)
    return Size(model.config.num_layers, parameters, channels, states)


def _channels(attention: SoftmaxAttention) -> int:
    return math.prod(attention.queries.shape[-2:])
