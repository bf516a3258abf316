"""Functions that take arrays wherever these lie, also where their types say so.

On `Explicit` axes of a mesh the type of an array says how it is spread, and operations
refuse arrays of which they cannot tell how the result is spread: table look-ups,
products, reshapes. On `Auto` axes XLA decides.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Function = TypeVar("Function", bound=Callable[..., Any])


def on_any_mesh(run: Function) -> Function:
    """Let a function take arrays that lie on `Explicit` axes of a mesh.

    Inside of it the axes are `Auto` ones: XLA places what it makes. No array is copied.
    Results lie where XLA has left them, and their types say where. While a program is
    traced nobody knows that yet: there they are whole on every device.

    Args:
      run: takes and returns pytrees.

    Examples:
      >>> mesh = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Explicit,))
      >>> x = jax.device_put(jnp.ones((4, 2)), NamedSharding(mesh, PartitionSpec("x")))
      >>> found = on_any_mesh(lambda x: x.reshape(8))(x)
      >>> found.shape, found.sharding.mesh == mesh
      ((8,), True)
    """
    return cast(Function, _OnAnyMesh(run))


def is_on_any_mesh(run: Callable[..., Any]) -> bool:
    """Return whether a function is one that `on_any_mesh` returned."""
    return isinstance(run, _OnAnyMesh)


class _OnAnyMesh:
    """A function that `on_any_mesh` returns.

    A class, since doctest passes by functions that were made in another module.
    """

    def __init__(self, run: Callable[..., Any]):
        functools.update_wrapper(self, run)

    def __call__(self, *args, **kwargs):
        run = vars(self)["__wrapped__"]
        leaves, tree = jax.tree.flatten((args, kwargs), is_leaf=_is_iterator)
        mesh = explicit_mesh(leaves) or jax.sharding.get_abstract_mesh()
        if not mesh.explicit_axes:
            return run(*args, **kwargs)

        def run_leaves(leaves):
            args, kwargs = jax.tree.unflatten(tree, leaves)
            return run(*args, **kwargs)

        if any(isinstance(x, Tracer) for x in leaves):
            return _run_traced(run_leaves, leaves, mesh)
        return _run_concrete(run_leaves, leaves, mesh.abstract_mesh)

    def __reduce__(self) -> str:
        return vars(self)["__qualname__"]  # pickled by name, as functions are

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        return self if owner is None else functools.partial(self, owner)


def _is_iterator(x: Any) -> bool:
    """Say whether something hands out arrays later: nobody knows yet where they lie."""
    return isinstance(x, Iterator)


def explicit_mesh(arrays: Sequence[Any]) -> Any:
    """Return the mesh of which the types of arrays speak, None if they do not.

    Args:
      arrays: whatever else is among them is passed by.
    """
    for x in arrays:
        if not isinstance(x, jax.Array):
            continue
        mesh = jax.typeof(x).sharding.mesh
        if mesh.explicit_axes:
            place = None if isinstance(x, Tracer) else x.sharding
            return getattr(place, "mesh", mesh)
    return None


def _run_concrete(run: Callable, leaves: list, mesh: Any) -> Any:
    """Call a function on the same arrays, under another name of their mesh."""
    types = dict.fromkeys(mesh.explicit_axes, AxisType.Auto)
    auto = mesh.update_axis_types(types)
    leaves = [_rename_mesh(x, mesh, auto) for x in leaves]
    with jax.sharding.use_abstract_mesh(auto):
        out = run(leaves)
    return jax.tree.map(lambda x: _rename_mesh(x, auto, mesh), out)


def _rename_mesh(x: Any, old: Any, new: Any) -> Any:
    """Return an array where it lies, on a mesh whose axes are of other types.

    Args:
      x: what is no array, or lies elsewhere, stays as it is.
      old: the abstract mesh that it lies on.
      new: the other one.
    """
    place = getattr(x, "sharding", None)
    if isinstance(x, Tracer) or not isinstance(place, NamedSharding):
        return x
    mesh = place.mesh
    if not isinstance(mesh, Mesh) or mesh.abstract_mesh != old:
        return x
    mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=new.axis_types)
    place = NamedSharding(mesh, place.spec, memory_kind=place.memory_kind)
    if jnp.issubdtype(x.dtype, jax.dtypes.extended):  # a key of random numbers
        return jax.device_put(x, place)
    parts = [shard.data for shard in x.addressable_shards]
    return jax.make_array_from_single_device_arrays(x.shape, place, parts)


def _run_traced(run: Callable, leaves: list, mesh: Any) -> Any:
    """Call a function on arrays that are being traced."""
    are_arrays = [isinstance(x, jax.Array) for x in leaves]
    seen: Any = None

    def run_arrays(arrays):
        nonlocal seen
        arrays = iter(arrays)
        out, tree = jax.tree.flatten(
            run(
                [
                    next(arrays) if is_array else x
                    for x, is_array in zip(leaves, are_arrays, strict=True)
                ]
            )
        )
        seen = out, tree
        return [x for x in out if isinstance(x, jax.Array)]

    arrays = [x for x, is_array in zip(leaves, are_arrays, strict=True) if is_array]
    whole = NamedSharding(mesh, PartitionSpec())
    run_auto: Any = jax.sharding.auto_axes(
        run_arrays, axes=mesh.explicit_axes, out_sharding=whole
    )
    found = iter(run_auto(arrays))
    out, tree = seen
    return jax.tree.unflatten(
        tree, [next(found) if isinstance(x, jax.Array) else x for x in out]
    )
