"""What happened inside a model: recurrences and residual stream per layer."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.layers.model import LayeredModel
from jmamba.requests import choose_layers
from jmamba.types import ArrayLike, Images, Tokens, exportable


@exportable
class Trace(NamedTuple):
    """Everything an analysis starts from, for the chosen layers.

    Attributes:
      layers: which layers these are, in ascending order.
      recurrence: what each projected its input to, a `Recurrence`, or of layers that
        read in both directions a `BidirectionalRecurrence`; of a model that sorts
        tokens with the orders of all its layers.
      residual_in: the residual stream entering each layer; of images with the class
        token.
      residual_out: the residual stream leaving each layer.
      logits: of the next token at each place, or of the classes.
    """

    layers: Int[Array, "s"]
    recurrence: Any
    residual_in: Float[Array, "s b l m"]
    residual_out: Float[Array, "s b l m"]
    logits: Float[Array, "b l v"] | Float[Array, "b v"]

    def layer(self, index: int) -> Any:
        """Return the recurrence of one traced layer, by its number.

        Raises:
          ValueError: the layer was not traced.
        """
        layers = np.asarray(self.layers).tolist()
        if index not in layers:
            raise ValueError(
                f"Layer {index} is not in this trace, which holds {layers}; trace with "
                f"layers=[..., {index}]."
            )
        return jax.tree.map(lambda x: x[layers.index(index)], self.recurrence)


def trace(
    model: LayeredModel,
    inputs: Tokens | Images | ArrayLike,
    *,
    layers: Sequence[int] | None = None,
) -> Trace:
    """Run a model and keep the inside of chosen layers.

    Memory grows with the layers chosen, not with the depth of the model. Texts of
    different lengths may be padded on the right: the model is causal.

    Args:
      model: the model to look into.
      inputs: token ids of texts, or images.
      layers: which layers to keep, counted from 0, negative ones from the end; None
        for all.

    Raises:
      ValueError: inputs do not fit the model, or a layer does not exist.

    Examples:
      >>> from jmamba import MambaConfig, MambaLM
      >>> config = MambaConfig(vocab_size=256, d_model=16, num_layers=4)
      >>> model = MambaLM(config, rngs=nnx.Rngs(0))
      >>> t = trace(model, jnp.array([list(b"hello")]), layers=[0, -1])
      >>> t.layers.tolist(), t.recurrence.delta.shape
      ([0, 3], (2, 1, 5, 32))
    """
    inputs = model.check_inputs(inputs)
    chosen = choose_layers(layers, model.config.num_layers)
    graphdef, state = nnx.split(model)
    return _trace(graphdef, state, inputs, chosen)


@partial(jax.jit, static_argnames=("graphdef", "layers"))
def _trace(graphdef, state, inputs, layers):
    model = nnx.merge(graphdef, state)
    x = model.embed(inputs)

    def record(x, out):
        return out.recurrence, x, out.x

    # One slot per chosen layer and one that all the others overwrite.
    slots = np.full(model.config.num_layers, len(layers))
    slots[list(layers)] = range(len(layers))
    shapes = jax.eval_shape(lambda x: record(x, model.layer(0)(x)), x)
    records = jax.tree.map(
        lambda like: jnp.zeros((len(layers) + 1, *like.shape), like.dtype), shapes
    )

    def visit(carry, x, out):
        index, records = carry
        slot = jnp.asarray(slots)[index]
        put = partial(jax.lax.dynamic_update_index_in_dim, index=slot, axis=0)
        return index + 1, jax.tree.map(put, records, record(x, out))

    passed = model.run_layers(x, visit=(visit, (0, records)))
    _, records = passed.carry
    records = jax.tree.map(lambda x: x[: len(layers)], records)
    recurrence, residual_in, residual_out = records
    logits = model.unembed(passed.x)
    return Trace(jnp.asarray(layers), recurrence, residual_in, residual_out, logits)
