"""What happened inside a model: selective parameters and residual stream per layer."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.models.mamba.model import MambaLM
from jmamba.models.vim.model import Vim
from jmamba.types import BidirectionalInputs, Images, Orders, SSMInputs, Tokens


class Trace(NamedTuple):
    """Everything an analysis starts from, for the chosen layers.

    Attributes:
      layers: which layers these are, in ascending order.
      ssm: the selective parameters of each; `ssm.z` is the gate's argument.
      residual_in: the residual stream entering each layer.
      residual_out: the residual stream leaving each layer.
      logits: next-token logits of the model.
    """

    layers: Int[Array, "s"]
    ssm: SSMInputs
    residual_in: Float[Array, "s b l m"]
    residual_out: Float[Array, "s b l m"]
    logits: Float[Array, "b l v"]

    def layer(self, index: int) -> SSMInputs:
        """Return the selective parameters of one traced layer, by its number.

        Raises:
          ValueError: the layer was not traced.
        """
        return _pick(self, index)


class VisionTrace(NamedTuple):
    """The same of a `Vim`, whose layers have two directions.

    Attributes:
      layers: which layers these are, in ascending order.
      ssm: the selective parameters of both directions of each; with the orders of
        their tokens, the identity for layers that do not sort, if any layer does.
      residual_in: the residual stream entering each layer, class token included.
      residual_out: the residual stream leaving each layer.
      logits: logits of the classes.
    """

    layers: Int[Array, "s"]
    ssm: BidirectionalInputs
    residual_in: Float[Array, "s b l m"]
    residual_out: Float[Array, "s b l m"]
    logits: Float[Array, "b v"]

    def layer(self, index: int) -> BidirectionalInputs:
        """Return the selective parameters of one traced layer, by its number.

        Raises:
          ValueError: the layer was not traced.
        """
        return _pick(self, index)


def _with_orders(model: MambaLM | Vim, ssm: Any) -> Any:
    """Give all layers of a model that sorts an order, so that they can be stacked."""
    if isinstance(model, MambaLM) or model.sorting is None or ssm.orders is not None:
        return ssm
    batch, length, _ = ssm.forward.u.shape
    dtype = ssm.forward.delta.dtype
    same = jnp.broadcast_to(jnp.eye(length, dtype=dtype), (batch, length, length))
    return ssm._replace(orders=Orders(same, same))


def _pick(trace: Trace | VisionTrace, index: int) -> Any:
    layers = np.asarray(trace.layers).tolist()
    if index not in layers:
        raise ValueError(
            f"Layer {index} is not in this trace, which holds {layers}; trace with "
            f"layers=[..., {index}]."
        )
    return jax.tree.map(lambda x: x[layers.index(index)], trace.ssm)


@overload
def trace(
    model: MambaLM, inputs: Tokens, *, layers: Sequence[int] | None = None
) -> Trace: ...
@overload
def trace(
    model: Vim, inputs: Images, *, layers: Sequence[int] | None = None
) -> VisionTrace: ...
def trace(
    model: MambaLM | Vim,
    inputs: Tokens | Images,
    *,
    layers: Sequence[int] | None = None,
) -> Any:
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
      >>> from jmamba import MambaConfig
      >>> config = MambaConfig(vocab_size=256, d_model=16, num_layers=4)
      >>> model = MambaLM(config, rngs=nnx.Rngs(0))
      >>> t = trace(model, jnp.array([list(b"hello")]), layers=[0, -1])
      >>> t.layers.tolist(), t.ssm.delta.shape
      ([0, 3], (2, 1, 5, 32))
    """
    model.check_inputs(inputs)  # type: ignore[arg-type]
    chosen = choose_layers(layers, model.config.num_layers)
    graphdef, state = nnx.split(model)
    return _trace(graphdef, state, jnp.asarray(inputs), chosen)


def choose_layers(layers: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Return layer numbers in ascending order, negative ones counted from the end.

    Raises:
      ValueError: a layer does not exist.
    """
    if layers is None:
        return tuple(range(count))
    wrong = [i for i in layers if not -count <= i < count]
    if wrong or not layers:
        raise ValueError(
            f"layers={list(layers)}: the model has layers 0 to {count - 1} "
            f"(or -{count} to -1); give at least one of them."
        )
    return tuple(sorted({i % count for i in layers}))


@partial(jax.jit, static_argnames=("graphdef", "layers"))
def _trace(graphdef, state, inputs, layers):
    model = nnx.merge(graphdef, state)
    x = model.embed(inputs)

    def record(x, out):
        return _with_orders(model, out.ssm), x, out.x

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

    x, _, (_, records) = model.run_layers(x, (visit, (0, records)))
    records = jax.tree.map(lambda x: x[: len(layers)], records)
    ssm, residual_in, residual_out = records
    kind = VisionTrace if isinstance(model, Vim) else Trace
    numbers = jnp.asarray(layers)
    return kind(numbers, ssm, residual_in, residual_out, model.unembed(x))
