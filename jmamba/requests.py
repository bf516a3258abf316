"""What a caller may ask for: arrays, keys, positions, layers, and memory."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

RESULT_BYTES = 4 * 2**30
"""Bytes that one call may return before it asks for a reduction instead."""

WORKING_BYTES = 2**30
"""Bytes that derivatives may take on their way: directions in flight, vectors."""


def as_array(x: Any, name: str) -> Any:
    """Return an array of what stands for one; arrays of JAX stay as they are.

    Args:
      x: an array of JAX or NumPy, a tensor of torch, or nested lists of numbers.
      name: what to call it in errors.

    Raises:
      TypeError: it is a text, a tokenizer's whole output, or no array at all.
      ValueError: its rows have different lengths.

    Examples:
      >>> as_array([[1, 2], [3, 4]], "tokens").shape
      (2, 2)
    """
    if isinstance(x, jax.Array | np.ndarray) and x.dtype.kind not in "OSU":
        return x
    if isinstance(x, Mapping):
        keys = ", ".join(map(repr, x))
        raise TypeError(
            f"{name} are a {type(x).__name__} with the keys {keys}; give the array in "
            f'it, for example {name}=encoding["input_ids"].'
        )
    detach = getattr(x, "detach", None)  # of a tensor of torch
    if detach is not None:
        x = detach().cpu()
        try:
            return x.numpy()
        except TypeError:  # bfloat16, which NumPy does not know
            return x.float().numpy()
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(x)):
        return jnp.asarray(x)
    try:
        found = np.asarray(x)
    except ValueError as error:
        _check_ragged(x, name)
        raise TypeError(f"{name} are no array: {error}") from error
    if found.dtype.kind in "SU":
        raise TypeError(
            f"{name} are text ({str(x)[:40]!r}), but must be numbers. Tokenize first: "
            "from jmamba.checkpoints import load_tokenizer, then "
            f"{name}=[load_tokenizer(folder_or_hub_id).encode(text)]."
        )
    if found.dtype.kind == "O":
        raise TypeError(
            f"{name} are of type {type(x).__name__}, which is no array; give an array, "
            "or nested lists of numbers."
        )
    return found


def _check_ragged(x: Any, name: str) -> None:
    lengths = [len(row) for row in x if hasattr(row, "__len__")]
    if len(set(lengths)) > 1:
        longest = max(lengths)
        masks = [[int(i < length) for i in range(longest)] for length in lengths[:2]]
        raise ValueError(
            f"{name} have rows of the lengths {lengths}. Fill all up to {longest} with "
            "any id, and say which are filling: attention_mask="
            f"{str(masks)[:60]}{', ...' if len(lengths) > 2 else ''} with 1 for tokens."
        )


def as_key(key: Any, caller: str) -> Array:
    """Return a key of random numbers: itself, or that of a seed.

    Args:
      key: of `jax.random.key` or `jax.random.PRNGKey`, a seed, or None for seed 0.
      caller: what to call the function that takes it.

    Raises:
      TypeError: it is neither.

    Examples:
      >>> bool(as_key(3, "generate") == jax.random.key(3))
      True
    """
    if key is None:
        key = 0
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return jax.random.key(int(key))
    if isinstance(key, jax.Array | np.ndarray):
        key = jnp.asarray(key) if isinstance(key, np.ndarray) else key
        is_typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        if key.shape == () and is_typed:
            return key
        if key.shape == () and jnp.issubdtype(key.dtype, jnp.integer):
            return jax.random.key(key)
        if key.ndim == 1 and key.dtype == jnp.uint32:  # of PRNGKey
            return key
    shape = getattr(key, "shape", None)
    given = f"{key!r}" if shape is None else f"of shape {shape}"
    raise TypeError(
        f"{caller}: key must be one key of random numbers, but is {given}. Give "
        "key=jax.random.key(0), or a seed such as key=0."
    )


def choose_positions(
    positions: Sequence[int] | None, size: int, name: str
) -> Int[Array, "q"]:
    """Return positions as an array, negative ones counted from the end.

    Raises:
      ValueError: a position does not exist, or none is given.
    """
    if positions is None:
        return jnp.arange(size)
    wrong = [int(i) for i in positions if not -size <= i < size]
    if wrong or len(positions) == 0:
        raise ValueError(
            f"{name}={list(map(int, positions))}: positions go from 0 to {size - 1} "
            f"(or -{size} to -1); give at least one of them."
        )
    return jnp.asarray([int(i) % size for i in positions])


def take_token(
    x: Float[Array, "b l m"], query: int | Int[Array, "b *q"]
) -> Float[Array, "b *q m"]:
    """Return one token of each sample, the same for all or one for each, or several.

    Examples:
      >>> x = jnp.arange(6.0).reshape(2, 3, 1)
      >>> take_token(x, jnp.array([2, 0]))[:, 0].tolist()
      [2.0, 3.0]
    """
    if isinstance(query, int):
        return x[:, query]
    places = query if query.ndim == 2 else query[:, None]
    taken = jnp.take_along_axis(x, places[:, :, None], axis=1)
    return taken if query.ndim == 2 else taken[:, 0]


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


def check_sizes(name: str, sizes: Mapping[str, int]) -> None:
    """Raise if an axis has no entries.

    Args:
      name: of the function that was called.
      sizes: of each axis, by its letter.

    Raises:
      ValueError: one has none.

    Examples:
      >>> check_sizes("selective_scan", {"b": 2, "l": 0})
      Traceback (most recent call last):
      ValueError: selective_scan: l=0 is an empty axis; give at least one entry...
    """
    empty = ", ".join(f"{axis}=0" for axis, size in sizes.items() if size == 0)
    if empty:
        raise ValueError(
            f"{name}: {empty} is an empty axis; give at least one entry along each of "
            f"{', '.join(sizes)}."
        )


def check_finite(parts: Mapping[str, Any], what: str) -> None:
    """Raise if arrays hold NaN or infinity; nothing is checked while tracing.

    Args:
      parts: by name, pytrees of arrays; None where there is nothing.
      what: would mean nothing then, such as "derivatives".

    Raises:
      ValueError: some do; the message names the parts.

    Examples:
      >>> check_finite({"delta": jnp.ones(2), "A": jnp.array([jnp.nan])}, "attention")
      Traceback (most recent call last):
      ValueError: A hold values that are not finite: attention would mean nothing...
    """
    leaves = {
        name: [x for x in jax.tree.leaves(part) if jnp.issubdtype(x.dtype, jnp.inexact)]
        for name, part in parts.items()
    }
    if any(isinstance(x, Tracer) for x in jax.tree.leaves(leaves)):
        return
    with jax.ensure_compile_time_eval():  # where only other arrays are traced
        fine = jax.device_get(_are_finite(leaves))
    wrong = [name for name in parts if not fine[name]]
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)} hold values that are not finite: {what} would mean "
            "nothing. Check the checkpoint, and the dtype for overflow."
        )


@jax.jit
def _are_finite(parts):
    def is_finite(arrays):
        return jnp.array([jnp.isfinite(x).all() for x in arrays]).all()

    return {name: is_finite(arrays) for name, arrays in parts.items()}


def check_memory(name: str, counts: dict[str, int], itemsize: int, limit: int) -> None:
    """Raise if a result would take too many bytes, and say what to ask for instead.

    Args:
      name: of the function that was called.
      counts: what the result has how many of.
      itemsize: bytes of a number.
      limit: bytes that the result may take.

    Raises:
      ValueError: it would take more.
    """
    size = math.prod(counts.values()) * itemsize
    if size <= limit:
        return
    product = " x ".join(f"{count} {what}" for what, count in counts.items())
    advice = "Ask for some rows=[...]"
    if "channels" in counts:
        advice += " or channels=[...], reduce over channels with reduced_attention(...)"
    raise ValueError(
        f"{name} would return {size / 2**30:.1f} GiB ({product}), over the limit of "
        f"{limit / 2**30:.1f} GiB. {advice}, or raise memory_limit."
    )
