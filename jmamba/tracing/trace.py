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
from jmamba.layers.states import states_after
from jmamba.ops.meshes import on_any_mesh
from jmamba.requests import choose_layers, choose_positions
from jmamba.types import (
    ArrayLike,
    BidirectionalRecurrence,
    ByRun,
    Images,
    Tokens,
    exportable,
)


@exportable
class Trace(NamedTuple):
    """Everything an analysis starts from, for the chosen layers.

    Attributes:
      layers: which layers these are, in ascending order.
      recurrence: what each projected its input to, a `Recurrence`, or of layers that
        read in both directions a `BidirectionalRecurrence`; of a model that sorts
        tokens with the orders of all its layers; of softmax attention, and a `ByRun`
        where kinds of layers differ.
      residual_in: the residual stream entering each layer; of images with the class
        token.
      residual_out: the residual stream leaving each layer.
      logits: of the next token at each place, or of the classes.
      states: of the recurrence after the tokens that were asked for, (s, b, q, d, n); a
        pair of them where layers read in both directions.
    """

    layers: Int[Array, "s"]
    recurrence: Any
    residual_in: Float[Array, "s b l m"]
    residual_out: Float[Array, "s b l m"]
    logits: Float[Array, "b l v"] | Float[Array, "b v"]
    states: Any = None

    def __repr__(self) -> str:
        """Return what was traced, without the numbers."""
        shape = getattr(self.residual_in, "shape", ())
        if len(shape) != 4:  # a pytree of this form that holds something else
            return tuple.__repr__(self)
        count, batch, length, width = shape
        kind = type(self.recurrence).__name__
        states = "" if self.states is None else ", states of chosen tokens"
        return (
            f"Trace of {count} layers, {batch} x {length} tokens of width {width}: "
            f"{kind}, residual stream, logits{states}"
        )

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
        place = layers.index(index)
        if isinstance(self.recurrence, ByRun):
            return self.recurrence.layer(place)
        return jax.tree.map(lambda x: x[place], self.recurrence)


@on_any_mesh
def trace(
    model: LayeredModel,
    inputs: Tokens | Images | ArrayLike,
    *,
    layers: Sequence[int] | None = None,
    states: Sequence[int] | None = None,
) -> Trace:
    """Run a model and keep the inside of chosen layers.

    Memory grows with the layers chosen, not with the depth of the model. Texts of
    different lengths may be padded on the right: the model is causal.

    Args:
      model: the model to look into.
      inputs: token ids of texts, or images.
      layers: which layers to keep, counted from 0, negative ones from the end; None
        for all.
      states: tokens after which to keep the recurrence's state, negative ones from the
        end; None for none. A backward direction has read the later tokens by then.

    Raises:
      ValueError: inputs do not fit the model, a layer or a token does not exist, or
        states are asked for of a layer that sorts its tokens, or has none.

    Examples:
      >>> from jmamba import MambaConfig, MambaLM
      >>> config = MambaConfig(vocab_size=256, d_model=16, num_layers=4)
      >>> model = MambaLM(config, rngs=nnx.Rngs(0))
      >>> t = trace(model, jnp.array([list(b"hello")]), layers=[0, -1])
      >>> t.layers.tolist(), t.recurrence.delta.shape
      ([0, 3], (2, 1, 5, 32))
    """
    checked = model.check_inputs(inputs)
    chosen = choose_layers(layers, model.config.num_layers)
    if states is not None:
        _check_states(model, chosen)
    graphdef, state = nnx.split(model)
    tokens = None
    if states is not None:
        tokens = choose_positions(states, model.count_tokens(checked.shape), "states")
    return _trace(graphdef, state, checked, tokens, chosen)


@partial(jax.jit, static_argnames=("graphdef", "layers"))
def _trace(graphdef, state, inputs, tokens, layers):
    model = nnx.merge(graphdef, state)
    x = model.embed(inputs)

    def record(block, x, out):
        return out.recurrence, x, out.x

    passed = model.run_layers(x, read=record, only=layers)
    recurrence, residual_in, residual_out = passed.found
    logits = model.unembed(passed.x)
    states = None if tokens is None else _states(recurrence, tokens)
    return Trace(
        jnp.asarray(layers), recurrence, residual_in, residual_out, logits, states
    )


def _check_states(model: LayeredModel, layers: Sequence[int]) -> None:
    """Raise if a layer has no state to keep."""
    runs = [run for run in model.runs() if not run.is_recurrent]
    wrong = [i for i in layers if any(i in run for run in runs)]
    if wrong:
        right = [i for i in layers if i not in wrong]
        raise ValueError(
            f"Layers {wrong} hold softmax attention, which has no state of one size; "
            f"give layers={right}, which are recurrent, or leave states= out."
        )


def _states(recurrence: Any, tokens: Int[Array, "q"]) -> Any:
    """Return the states after tokens of each layer; of two directions a pair."""
    if not isinstance(recurrence, BidirectionalRecurrence):
        return jax.lax.map(lambda one: states_after(one, tokens), recurrence)
    if recurrence.orders is not None:
        raise ValueError(
            "This model sorts its tokens, so that a state after a token is none of the "
            "text's; leave states= out, and use states_after on t.layer(i).forward."
        )
    mirrored = recurrence.forward.u.shape[2] - 1 - tokens
    return (
        jax.lax.map(lambda one: states_after(one, tokens), recurrence.forward),
        jax.lax.map(lambda one: states_after(one, mirrored), recurrence.backward),
    )
