"""Programs of a model on a mesh, without values: training, reading, analysis."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jmamba.attention.matrices.reduction import reduced_attention
from jmamba.layers.letters import path_of, shared_letters
from jmamba.layers.room import add_room
from jmamba.layers.stack import Remat
from jmamba.models.cache import cache_letters
from jmamba.models.language_model import LMOutput
from jmamba.models.sharding import Sharding
from jmamba.models.skeleton import Skeleton, make_skeleton
from jmamba.ops.sharding import keep_places
from jmamba.training.batches import TextBatch, text_loss
from jmamba.training.classification import Labelled, classification_loss
from jmamba.training.optimizer import make_optimizer
from jmamba.training.step import StepProgram, TrainState, train_step


class Workload(NamedTuple):
    """What a program is asked for.

    Attributes:
      config: of the model.
      sharding: of the model and its batches.
      batch: rows.
      length: tokens in each; for decode, that the state has seen, which costs nothing.
      dtype: of activations; parameters are float32 in training, else of this dtype.
      remat: whether training recomputes each block, or a policy.
    """

    config: Any
    sharding: Sharding
    batch: int
    length: int
    dtype: str = "bfloat16"
    remat: Remat = True


class Call(NamedTuple):
    """A program that can be traced and compiled, and the arrays it is called with.

    Attributes:
      run: a jitted function of the arguments, in their order.
      arguments: shapes, dtypes and places, by what they are.
    """

    run: Any
    arguments: dict[str, Any]


def make_call(kind: str, task: Workload) -> Call:
    """Return a program of a kind of `PROGRAMS`.

    Raises:
      ValueError: the kind is unknown, is none of the model, or the mesh does not divide
        the model or the batch.

    Examples:
      >>> from jmamba import MambaConfig
      >>> config = MambaConfig(vocab_size=8, d_model=4, num_layers=1)
      >>> one = Sharding(devices=jax.devices()[:1])
      >>> sorted(make_call("decode", Workload(config, one, 2, 1)).arguments)
      ['cache', 'parameters', 'tokens']
    """
    if kind not in PROGRAMS:
        raise ValueError(
            f"Unknown program {kind!r}; give one of {', '.join(PROGRAMS)}."
        )
    dtype = jnp.dtype(task.dtype)
    skeleton = make_skeleton(
        task.config,
        dtype=dtype,
        param_dtype=jnp.float32 if kind == "train" else dtype,
        remat=task.remat if kind == "train" else False,
    )
    reads = skeleton.model.reads
    if kind in ("prefill", "decode") and reads != "tokens":
        raise ValueError(f"{kind} is of language models; this one reads {reads}.")
    task.sharding.check(task.config)
    task.sharding.check_batch(task.batch, 0 if kind == "decode" else task.length)
    return PROGRAMS[kind](task, skeleton)


def _training(task: Workload, skeleton: Skeleton) -> Call:
    optimizer = make_optimizer()
    parameters = _parameters(task, skeleton)
    moments = _like_parameters(
        jax.eval_shape(optimizer.init, skeleton.state), task, skeleton
    )
    inputs = _inputs(task, skeleton)
    if skeleton.model.reads == "tokens":
        batch, loss = TextBatch(inputs, inputs), text_loss
    else:
        labels = _array(task, "b", (task.batch,), jnp.int32)
        batch, loss = Labelled(inputs, labels), classification_loss
    arguments = {
        "parameters": parameters,
        "optimizer": moments,
        "step": _array(task, "", (), jnp.int32),
        "batch": batch,
    }
    run = partial(_train, StepProgram(skeleton.graphdef, optimizer, loss))
    return Call(jax.jit(run, donate_argnums=(0, 1, 2)), arguments)


def _train(step, parameters, moments, count, batch):
    return train_step(TrainState(parameters, moments, count), batch, 1e-3, step=step)


def _reading(task: Workload, skeleton: Skeleton) -> Call:
    arguments = {
        "parameters": _parameters(task, skeleton),
        "tokens": _inputs(task, skeleton),
    }
    return Call(jax.jit(partial(_prefill, skeleton.graphdef)), arguments)


def _prefill(graphdef, state, tokens):
    """Return the logits after the last token, and the cache."""

    def run(tokens, state):
        model = nnx.merge(graphdef, state)
        passed = model.run_layers(model.embed(tokens))
        return LMOutput(model.read(passed.x), passed.cache)

    model = nnx.merge(graphdef, state)
    letters = shared_letters(model)
    out_axes: Any = LMOutput("bv", cache_letters(model))  # pyright: ignore[reportArgumentType]
    return keep_places(run, (tokens, state), ("bl", letters), out_axes)


def _stepping(task: Workload, skeleton: Skeleton) -> Call:
    model = skeleton.model
    empty = jax.eval_shape(lambda: add_room(model.empty_cache(task.batch), task.length))
    cache = jax.tree.map(
        lambda letters, x: _array(task, letters, x.shape, x.dtype),
        cache_letters(model),
        empty,
    )
    arguments = {
        "parameters": _parameters(task, skeleton),
        "cache": cache,
        "tokens": _array(task, "b_", (task.batch, 1), jnp.int32),
    }
    run = jax.jit(partial(_decode, skeleton.graphdef), donate_argnums=1)
    return Call(run, arguments)


def _decode(graphdef, state, cache, tokens):
    return nnx.merge(graphdef, state)(tokens, cache=cache)


def _explaining(task: Workload, skeleton: Skeleton) -> Call:
    arguments = {
        "parameters": _parameters(task, skeleton),
        "inputs": _inputs(task, skeleton),
    }
    return Call(jax.jit(partial(_attend, skeleton.graphdef)), arguments)


def _attend(graphdef, state, inputs):
    """Return the last token's row of hidden attention, mean over heads, by layer."""

    def run(inputs, state):
        model = nnx.merge(graphdef, state)

        def read(block, x, out):
            return reduced_attention(out.recurrence, "mean", rows=[-1])

        return model.run_layers(model.embed(inputs), read=read).found

    letters = shared_letters(nnx.merge(graphdef, state))
    read = "bl" if jnp.ndim(inputs) == 2 else "b___"
    return keep_places(run, (inputs, state), (read, letters), "sb__")


PROGRAMS: dict[str, Callable[[Workload, Skeleton], Call]] = {
    "train": _training,
    "prefill": _reading,
    "decode": _stepping,
    "attention": _explaining,
}
"""What can be planned: a training step with AdamW, reading a batch of texts, one token
more of each, and hidden attention of the last token in all layers."""


def _inputs(task: Workload, skeleton: Skeleton) -> Any:
    if skeleton.model.reads == "tokens":
        return _array(task, "bl", (task.batch, task.length), jnp.int32)
    side, colours = task.config.image_size, task.config.image_channels
    shape = (task.batch, side, side, colours)
    return _array(task, "b___", shape, jnp.dtype(task.dtype))


def _parameters(task: Workload, skeleton: Skeleton) -> Any:
    return _like_parameters(skeleton.state, task, skeleton)


def _like_parameters(tree: Any, task: Workload, skeleton: Skeleton) -> Any:
    """Return shapes and places of what has an array for each parameter.

    Args:
      tree: in whose paths those of the parameters end; what is of none is whole.
      task: says where parameters lie.
      skeleton: of the model.
    """
    places = task.sharding.places(skeleton.model)
    whole = NamedSharding(task.sharding.mesh, PartitionSpec())

    def place(keys, x):
        path = path_of(keys)
        ends = (path[i:] for i in range(len(path)))
        found = next((places[end] for end in ends if end in places), whole)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=found)

    return jax.tree.map_with_path(place, tree)


def _array(task: Workload, letters: str, shape: tuple[int, ...], dtype: Any) -> Any:
    place = task.sharding.place(letters, shape)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)
