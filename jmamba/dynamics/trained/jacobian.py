"""How each token of a layer's output depends on each token of its input."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jmamba.dynamics.trained.layer_jacobian import (
    READERS_AT_ONCE,
    has_structure,
    squared_layer_norms,
)
from jmamba.layers.model import LayeredModel
from jmamba.layers.runs import Run, cut_runs
from jmamba.layers.stack import run_layers
from jmamba.ops.meshes import on_any_mesh
from jmamba.requests import WORKING_BYTES, as_key, check_finite, choose_positions
from jmamba.types import KeyLike
from jmamba_kernels import accumulation_dtype

DIRECTIONS_AT_ONCE = 128
"""Of a single layer's Jacobian: more make its matrix products no faster."""

TokenMap = Callable[[Float[Array, "l m"]], Float[Array, "l m"]]
"""A map of a sequence of token vectors to one of the same length."""


class _Span(NamedTuple):
    """Runs layers; equal spans compile once.

    Attributes:
      counts: layers of each run.
      open: makes a block of its parameters, of each run.
    """

    counts: tuple[int, ...]
    open: tuple[Callable[[Any], Any], ...]

    def runs(self, parameters) -> list[Run]:
        """Return the layers with their parameters."""
        ends = list(itertools.accumulate(self.counts, initial=0))
        parts = itertools.starmap(slice, itertools.pairwise(ends))
        return [Run(*run) for run in zip(parts, parameters, self.open, strict=True)]

    @on_any_mesh
    def __call__(self, parameters, x):
        return run_layers(self.runs(parameters), x[None]).x[0]


@on_any_mesh
def layer_span(model: LayeredModel, start: int = 0, stop: int | None = None) -> Partial:
    """Return the map of the residual stream through layers start to stop - 1.

    Args:
      model: the model.
      start: first layer.
      stop: one past the last layer; None for the end of the model.

    Returns:
      A pure function of one sequence (l, m), and a pytree: it may be given to jit.

    Raises:
      ValueError: the span is empty or leaves the model.

    Examples:
      >>> from jmamba import MambaConfig, MambaLM
      >>> from flax import nnx
      >>> config = MambaConfig(vocab_size=256, d_model=16, num_layers=4)
      >>> model = MambaLM(config, rngs=nnx.Rngs(0))
      >>> f = layer_span(model, 1, 3)
      >>> f(jnp.ones((5, 16))).shape
      (5, 16)
    """
    count = model.config.num_layers
    end = count if stop is None else stop
    if not 0 <= start < end <= count:
        raise ValueError(
            f"layer_span({start}, {end}): give 0 <= start < stop <= {count}, the "
            "number of layers; layer i alone is layer_span(model, i, i + 1)."
        )
    runs = cut_runs(model.runs(), start, end)
    counts = tuple(run.layers.stop - run.layers.start for run in runs)
    span = _Span(counts, tuple(run.open for run in runs))
    return Partial(span, tuple(run.parameters for run in runs))


@on_any_mesh
def token_jacobian(
    f: TokenMap,
    x: Float[Array, "l m"],
    *,
    rows: Sequence[int] | None = None,
    columns: Sequence[int] | None = None,
    mode: str = "forward",
    memory_limit: int = WORKING_BYTES,
) -> Float[Array, "i j m m"]:
    """Return blocks d f(x)[i] / d x[j] of the Jacobian.

    Args:
      f: `layer_span(model, ...)` or any map of (l, m) to (l, m).
      x: where to differentiate, `trace(...).residual_in[s, b]`.
      rows: output tokens i; None for all.
      columns: input tokens j; None for all.
      mode: "forward" pushes m directions per column, "reverse" pulls m back per row:
        better for a few rows and many columns.
      memory_limit: bytes the result may take.

    Raises:
      ValueError: the mode is unknown, a token does not exist, x or a weight is not
        finite, or the blocks take more than the limit; the message names the bytes and
        what to do.

    Examples:
      >>> f = lambda x: jnp.cumsum(x, axis=0)
      >>> J = token_jacobian(f, jnp.ones((3, 2)))
      >>> J[2, 0].tolist(), J[0, 2].tolist()
      ([[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]])

    References:
      Vo et al., "Demystifying the Token Dynamics of Deep Selective State Space
      Models", ICLR 2025, section 3.
    """
    check_map(f, x)
    if mode not in ("forward", "reverse"):
        raise ValueError(f"Unknown mode {mode!r}; give 'forward' or 'reverse'.")
    outputs = choose_positions(rows, x.shape[0], "rows")
    inputs = choose_positions(columns, x.shape[0], "columns")
    size = len(outputs) * len(inputs) * x.shape[1] ** 2 * x.dtype.itemsize
    if size > memory_limit:
        raise ValueError(
            f"token_jacobian would return {size / 2**30:.2f} GiB ({len(outputs)} x "
            f"{len(inputs)} blocks of {x.shape[1]} x {x.shape[1]}), over the limit of "
            f"{memory_limit / 2**30:.2f} GiB. Ask for some rows=[...] and "
            "columns=[...], take jacobian_norms(...), or raise memory_limit."
        )
    run = _token_jacobian if mode == "forward" else _token_jacobian_by_rows
    return run(_as_partial(f), x, outputs, inputs)


@jax.jit
def _token_jacobian(f, x, rows, columns):
    def column(j):
        return jax.jacfwd(lambda token: f(x.at[j].set(token))[rows])(x[j])

    return jnp.moveaxis(jax.lax.map(column, columns), 0, 1)  # j i m m -> i j m m


@jax.jit
def _token_jacobian_by_rows(f, x, rows, columns):
    _, pull = jax.vjp(f, x)
    units = jnp.eye(x.shape[1], dtype=x.dtype)

    def row(i):
        def back(unit):
            return pull(jnp.zeros_like(x).at[i].set(unit))[0][columns]

        return jnp.moveaxis(jax.vmap(back)(units), 0, 1)  # a j m -> j a m

    return jax.lax.map(row, rows)


@on_any_mesh
def jacobian_norms(
    f: TokenMap,
    x: Float[Array, "l m"],
    *,
    probes: int | None = None,
    key: KeyLike | None = None,
    memory_limit: int = WORKING_BYTES,
) -> Float[Array, "l l"]:
    """Return the Frobenius norm of every block d f(x)[i] / d x[j].

    Directions are pushed forward a batch at a time; no Jacobian is ever stored. For a
    single layer, `layer_span(model, i, i + 1)`, exact norms come from its structure, at
    a small part of the cost.

    Args:
      f: `layer_span(model, ...)` or any map of (l, m) to (l, m).
      x: where to differentiate.
      probes: None pushes all m unit vectors of each token (exact); a number pushes
        that many random signs v instead, for E |J v|^2 = |J|^2, with a relative error
        of about sqrt(1 / (2 probes)) or less.
      key: randomness of the probes, or a seed; None for a fixed one.
      memory_limit: bytes the directions in flight may take, roughly.

    Raises:
      ValueError: probes is less than 1, or x or a weight is not finite.

    Examples:
      >>> f = lambda x: jnp.cumsum(x, axis=0)
      >>> jacobian_norms(f, jnp.ones((2, 4))).tolist()
      [[2.0, 0.0], [2.0, 2.0]]

    References:
      Vo et al., "Demystifying the Token Dynamics of Deep Selective State Space
      Models", ICLR 2025, section 3.
      Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1990.
    """
    check_map(f, x)
    length, width = x.shape
    if probes is None:
        vectors = jnp.eye(width, dtype=x.dtype)
    elif probes < 1:
        raise ValueError(f"probes={probes}: give at least 1, or None for exact norms.")
    else:
        key = as_key(key, "jacobian_norms")
        vectors = jax.random.rademacher(key, (probes, width), x.dtype)
    if probes is None and _is_layer(f):
        return jnp.sqrt(_squared_layer_norms(f, x, memory_limit))
    # About 16 arrays of the residual stream's size live per direction in a block.
    per_direction = 16 * x.size * x.dtype.itemsize
    at_once = max(1, min(memory_limit // per_direction, length * len(vectors)))
    squares = _squared_norms(_as_partial(f), x, vectors, int(at_once))
    return jnp.sqrt(squares if probes is None else squares / probes)


def _is_layer(f) -> bool:
    """Return whether f is a span of one layer that reads its tokens in order."""
    if not (isinstance(f, Partial) and isinstance(f.func, _Span)):
        return False
    return f.func.counts == (1,) and has_structure(f.func.runs(f.args[0])[0])


def _squared_layer_norms(f, x, memory_limit):
    run = f.func.runs(f.args[0])[0]
    state = jax.eval_shape(lambda: run.block(0)(x[None]).cache.ssm_state)
    # copies of the state, two of what the readers read, and their outputs
    numbers = 8 * state.size + READERS_AT_ONCE * (2 * state.shape[1] + x.shape[1])
    at_once = memory_limit // (numbers * accumulation_dtype(x.dtype).itemsize)
    at_once = int(max(1, min(at_once, DIRECTIONS_AT_ONCE, x.shape[1])))
    return squared_layer_norms(run.open, run.parameters, x, at_once=at_once)


@partial(jax.jit, static_argnames="at_once")
def _squared_norms(f, x, vectors, at_once):
    length, count = x.shape[0], len(vectors)
    pairs = length * count  # direction p moves token p // count along p % count

    def push(p):
        tangent = jnp.zeros_like(x).at[p // count].set(vectors[p % count])
        _, d_out = jax.jvp(f, (x,), (tangent,))
        return jnp.sum(d_out * d_out, axis=-1)

    squares = jax.lax.map(push, jnp.arange(pairs), batch_size=at_once)
    return jnp.sum(squares.reshape(length, count, length), axis=1).T


def check_map(f: Any, x: Float[Array, "..."]) -> None:
    """Raise if tokens, or the weights that a map holds, are not finite.

    Args:
      f: a map, whose weights are seen if it is a `jax.tree_util.Partial`, or any pytree
        of weights.
      x: the tokens.

    Raises:
      ValueError: something is not finite; nothing is checked while tracing.
    """
    weights = jax.tree.leaves(f) if not callable(f) or isinstance(f, Partial) else []
    weights = [w for w in weights if isinstance(w, Array)]
    parts = {"The tokens": x, "The model's weights": weights}
    check_finite(parts, "derivatives")


def _as_partial(f):
    return f if isinstance(f, Partial) else Partial(f)
