"""What is to be explained: which logit, read off which token, of which input."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.layers.freezing import NOTHING, Frozen
from jmamba.layers.stack import join_runs
from jmamba.models.mamba.model import MambaLM
from jmamba.models.vim.model import Vim
from jmamba.types import Images, Tokens

Model = MambaLM | Vim
Inputs = Tokens | Images
Choice = int | Sequence[int] | Int[Array, "b"] | None
"""One number for all samples, one for each, or None for the model's own choice."""


class Question(NamedTuple):
    """An input, and the logits and tokens that explanations are about.

    `target` is None for the predicted class or token. `query` is None where a model
    reads the mean over all tokens.
    """

    graphdef: Any
    state: Any
    inputs: Inputs
    target: Int[Array, "b"] | None
    query: Int[Array, "b"] | None


def ask(model: Model, inputs: Inputs, target: Choice, query: Choice) -> Question:
    """Check what is to be explained and fill in the query.

    Args:
      model: the model.
      inputs: token ids or images.
      target: class or token whose logit is explained; None for the predicted one.
      query: the token that it is read off, counted in the residual stream, negative
        from the end; None for the class token of an image and the last of a text.

    Raises:
      ValueError: the inputs do not fit the model, or target or query is out of range or
        not one number per sample.
    """
    model.check_inputs(inputs)  # type: ignore[arg-type]
    inputs = jnp.asarray(inputs)
    batch, length = inputs.shape[0], count_tokens(model, inputs.shape)
    if isinstance(model, Vim):
        classes, usual = model.config.num_classes, model.class_index(length)
    else:
        classes, usual = model.config.vocab_size, length - 1
    query = usual if query is None else query
    chosen = _numbers(query, batch, -length, length, "query")
    if chosen is not None:
        chosen = chosen % length
    graphdef, state = nnx.split(model)
    wanted = _numbers(target, batch, 0, classes, "target")
    return Question(graphdef, state, inputs, wanted, chosen)


def count_tokens(model: Model, shape: tuple[int, ...]) -> int:
    """Return the length of the residual stream of inputs of a shape."""
    if isinstance(model, MambaLM):
        return shape[1]
    rows, columns = model.config.grid_of(*shape[1:3])
    return rows * columns + (model.class_token is not None)


def _numbers(choice: Choice, batch: int, low: int, high: int, name: str):
    if choice is None:
        return None
    values = np.asarray(choice)
    if (
        values.ndim > 1
        or values.size not in (1, batch)
        or values.dtype.kind not in "iu"
    ):
        raise ValueError(
            f"{name}={choice!r}: give one integer, or one for each of {batch} samples."
        )
    if values.min() < low or values.max() >= high:
        raise ValueError(
            f"{name}={values.tolist()} is out of range: give {low} to {high - 1}."
        )
    return jnp.asarray(np.broadcast_to(values.reshape(-1), (batch,)))


def pick(
    logits: Float[Array, "b v"], target: Int[Array, "b"] | None
) -> Float[Array, "b"]:
    """Return one logit per sample, the largest if no target is given."""
    target = jnp.argmax(logits, axis=-1) if target is None else target
    return jnp.take_along_axis(logits, target[:, None], axis=1)[:, 0]


def scan_blocks(
    model: Model,
    x: Float[Array, "b l m"],
    measure: Callable = lambda block, x, out: None,
    *,
    shifts: Float[Array, "s b l m"] | None = None,
    frozen: Frozen = NOTHING,
) -> tuple[Float[Array, "b l m"], Any]:
    """Run all blocks and measure something of each.

    Args:
      model: the model.
      x: the residual stream before the first block.
      measure: function of a block, the residual stream entering it and its output,
        called inside of the scan.
      shifts: added to the residual stream behind each block, to differentiate there.
      frozen: what derivatives take for constants.

    Returns:
      The residual stream after the last block, and the stacked measurements.
    """
    measured = []
    for layers, blocks in model.runs():
        graphdef, state = nnx.split(blocks)

        def body(x, layer, graphdef=graphdef):
            state, shift = layer
            block = nnx.merge(graphdef, state)
            out = block(x, frozen=frozen)
            return out.x if shift is None else out.x + shift, measure(block, x, out)

        shift = None if shifts is None else shifts[layers]
        x, found = jax.lax.scan(body, x, (state, shift))
        measured.append(found)
    return x, join_runs(measured)


def read_logits(
    model: Model,
    x: Float[Array, "b l m"],
    query: Int[Array, "b"] | None,
    *,
    frozen: Frozen = NOTHING,
) -> Float[Array, "b v"]:
    """Return the logits that a residual stream before the first block leads to."""
    return model.read(scan_blocks(model, x, frozen=frozen)[0], query, frozen=frozen)
