"""What differs between the versions of jax that are supported, asked for by feature.

Arrays inside `jax.shard_map` vary over some axes of the mesh. From jax 0.10 on their
type says so in `manual_axis_type.varying`, before in `vma`.
"""

from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Axes = frozenset[str]


def enable_x64(enabled: bool = True) -> AbstractContextManager:
    """Let arrays be float64 inside a `with` block: `jax.enable_x64`, of jax 0.8.

    Examples:
      >>> import jax.numpy as jnp
      >>> with enable_x64():
      ...     jnp.ones(2).dtype
      dtype('float64')
    """
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(enabled)
    from jax import experimental

    return experimental.enable_x64(enabled)  # pyright: ignore


def matmul_into(x: jax.Array, y: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Return x y of narrow operands in a wider dtype, in which it is summed.

    CPUs do so from jax 0.10 on; before, operands are widened there.
    """
    if jax.__version_info__ < (0, 10) and jax.default_backend() == "cpu":
        x, y = x.astype(dtype), y.astype(dtype)
    return jnp.matmul(x, y, preferred_element_type=dtype)


def varies_over(x: jax.Array) -> Axes:
    """Return the axes of the mesh that an array varies over."""
    kind = jax.typeof(x)
    if hasattr(kind, "manual_axis_type"):
        return kind.manual_axis_type.varying
    return kind.vma  # pyright: ignore[reportAttributeAccessIssue]


def vary_over(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Let an array vary over further axes of the mesh; transposed, a sum over them."""
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(x, axes, to="varying")
    return jax.lax.pvary(x, axes)  # pyright: ignore


def without_varying(aval):
    """Return an abstract value that varies over no axis."""
    if hasattr(aval, "manual_axis_type"):
        same = aval.manual_axis_type.update(varying=frozenset())
        return aval.update(manual_axis_type=same)
    return aval.update(vma=frozenset())


def struct_like(x, operand: jax.Array) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of x, varying over what an operand varies over."""
    kind = jax.typeof(operand)
    if hasattr(kind, "manual_axis_type"):
        how = {"manual_axis_type": kind.manual_axis_type}
    else:
        how = {"vma": kind.vma}
    return jax.ShapeDtypeStruct(x.shape, x.dtype, **how)
