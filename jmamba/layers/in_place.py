"""Weights of a layer that are read where those of all layers lie.

The weights of all layers lie stacked. A scan over layers copies those of each layer
before it multiplies with them, and XLA:CPU widens narrow ones before that. On a CPU a
single token meets them by `multiply_row`, row by row, in their own dtype: bfloat16
takes about half as long, float32 as long as before within what a machine varies by
(benchmarks/precision.py).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int, Shaped

from jmamba_kernels import accumulation_dtype
from jmamba_kernels.versions import matmul_into

ENTRIES = 1 << 16
"""Entries of a matrix that are added up in one step, about."""

ROWS = 32, 64
"""Fewest and most rows of one step: each is an instruction of its program."""

SUMS = 4
"""Sums that do not wait for each other."""

LARGE = 1 << 16
"""Entries of a layer's matrix from which on it is read where it lies."""

WIDE = 256
"""Columns from which on it is: rows of fewer cost more steps than they save."""


class LayerWeights(NamedTuple):
    """A matrix of one layer, not yet taken from those of all layers.

    A parameter may hold it in an array's stead: `parameter[...]` takes it.

    Attributes:
      stacked: of all layers.
      layer: which one.
    """

    stacked: Shaped[Array, "s m d"]
    layer: Int[Array, ""]

    def __getitem__(self, index: Any) -> Any:  # pyright: ignore
        """Return the matrix, or a part of it."""
        return _take(self.stacked, self.layer)[index]


def pick_layer(parameters: Any, layer: Int[Array, ""]) -> Any:
    """Return the parameters of one of the stacked layers, large matrices untaken.

    Args:
      parameters: of all layers, a pytree with a leading axis of layers.
      layer: which one.
    """

    def pick(keys, x):
        names = [key.key for key in keys if hasattr(key, "key")]
        is_kernel = names[-1:] == ["kernel"]
        if is_kernel and x.ndim == 3 and is_read_in_place(*x.shape[1:]):
            return LayerWeights(x, layer)
        return _take(x, layer)

    return jax.tree.map_with_path(pick, parameters)


def is_read_in_place(size_in: int, size_out: int) -> bool:
    """Say whether a token meets a matrix of this size without a copy of it."""
    return size_in * size_out >= LARGE and size_out >= WIDE


@jax.custom_jvp
def multiply_row(
    x: Float[Array, "m"], stacked: Shaped[Array, "s m d"], layer: Int[Array, ""]
) -> Float[Array, "d"]:
    """Return x W of the matrix W of one layer, summed in float32 or better.

    Args:
      x: one token; the product is in its dtype.
      stacked: matrices of all layers, which no copy is made of on a CPU.
      layer: which one.

    Examples:
      >>> stacked = jnp.arange(12.0).reshape(2, 3, 2)
      >>> multiply_row(jnp.ones(3), stacked, jnp.asarray(1)).tolist()
      [24.0, 27.0]
    """
    return jax.lax.platform_dependent(
        x, stacked, layer, cpu=_sum_rows, default=_multiply
    )


def _differentiate(primals, tangents):
    """Return the product and its tangent, which is not summed row by row."""
    (x, stacked, layer), (dx, dW, _) = primals, tangents
    y = multiply_row(x, stacked, layer)
    parts = []
    if not isinstance(dx, SymbolicZero):
        parts.append(_multiply(dx, stacked, layer))
    if not isinstance(dW, SymbolicZero) and dW.dtype != jax.dtypes.float0:
        parts.append(_multiply(x, dW, layer))
    return y, sum(parts[1:], *parts[:1]) if parts else jnp.zeros_like(y)


multiply_row.defjvp(_differentiate, symbolic_zeros=True)


def _take(stacked, layer):
    return jax.lax.dynamic_index_in_dim(stacked, layer, keepdims=False)


def _multiply(x, stacked, layer):
    return multiply(x, _take(stacked, layer))


def multiply(x: Float[Array, "*b m"], W: Array) -> Float[Array, "*b d"]:
    """Return x W in the dtype of x, summed in float32 or better.

    Args:
      x: tokens.
      W: a matrix (m, d) of any dtype.
    """
    W = W.astype(x.dtype)
    return matmul_into(x, W, accumulation_dtype(x.dtype)).astype(x.dtype)


def _sum_rows(x, stacked, layer):
    """Return the sum over rows x[m] W[m], which reads each where it lies."""
    dtype = accumulation_dtype(x.dtype)
    layers, size, width = stacked.shape
    table = _bits(stacked.reshape(layers * size, width))
    first_row = layer.astype(jnp.uint32) * jnp.uint32(size)
    rows = min(max(ENTRIES // width, ROWS[0]), ROWS[1])

    def add_up(start, count: int):
        """Return the sum over so many rows."""
        values = jax.lax.dynamic_slice(x, (start,), (count,)).astype(dtype)
        sums: list[Any] = [0.0] * SUMS
        for r in range(count):
            at = first_row + start + jnp.uint32(r)
            row = jax.lax.dynamic_slice(table, (at, jnp.uint32(0)), (1, width))[0]
            sums[r % SUMS] += values[r] * _widen(row, x.dtype, dtype)
        return sum(sums[1:], sums[0])

    steps, rest = divmod(size, rows)
    y: Any = jnp.zeros(width, dtype)
    if rest:
        y = add_up(jnp.uint32(size - rest), rest)
    if steps:
        y = y + add_up(jnp.uint32(0), rows)
    if steps > 1:
        step = lambda j, y: y + add_up(j * jnp.uint32(rows), rows)  # noqa: E731
        y = jax.lax.fori_loop(jnp.uint32(1), jnp.uint32(steps), step, y)
    return y.astype(x.dtype)


def _bits(table):
    """Return the bits of bfloat16, which XLA would widen in all layers at once."""
    if table.dtype != jnp.bfloat16:
        return table
    return jax.lax.bitcast_convert_type(table, jnp.uint16)


def _widen(row, narrow, wide):
    """Return numbers rounded to a narrow dtype, or bits of bfloat16, in a wide one."""
    if row.dtype == jnp.uint16:
        bits = row.astype(jnp.uint32) << jnp.uint32(16)
        return jax.lax.bitcast_convert_type(bits, jnp.float32).astype(wide)
    return row.astype(narrow).astype(wide)
