"""Models without values: what is to be filled, and what a model holds."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx

from jmamba.files.keys import ParameterPath, Slot, flatten, nest, slots
from jmamba.layers.stack import Remat
from jmamba.models.architecture import architecture_of


class Skeleton(NamedTuple):
    """A model without values: its graph, and shape and dtype of each parameter."""

    graphdef: Any
    state: Any
    parameters: dict[ParameterPath, jax.ShapeDtypeStruct]

    @property
    def shapes(self) -> dict[ParameterPath, tuple[int, ...]]:
        """Shape of each parameter."""
        return shapes_of(self.parameters)

    @property
    def model(self) -> Any:
        """The model itself, whose parameters are shapes and dtypes."""
        return nnx.merge(self.graphdef, self.state)

    def build(self, arrays: Mapping[ParameterPath, jax.Array]) -> Any:
        """Return the model with these parameters."""
        nnx.replace_by_pure_dict(self.state, nest(arrays))
        return nnx.merge(self.graphdef, self.state)


def make_skeleton(config: Any, *, dtype, param_dtype, remat: Remat = False) -> Skeleton:
    """Return a model without values; nothing is computed or allocated.

    Args:
      config: of a registered architecture.
      dtype: compute dtype of activations.
      param_dtype: dtype of stored weights.
      remat: whether the backward pass recomputes each block, or a policy.
    """
    model = nnx.eval_shape(
        lambda: architecture_of(config).model_class(
            config,
            dtype=dtype,
            param_dtype=param_dtype,
            remat=remat,
            rngs=nnx.Rngs(0),
        )
    )
    graphdef, state = nnx.split(model)
    return Skeleton(graphdef, state, flatten(nnx.to_pure_dict(state)))


def parameters_of(model: nnx.Module) -> dict[ParameterPath, jax.Array]:
    """Return path -> array of a model."""
    return flatten(nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def variables_of(model: nnx.Module) -> dict[ParameterPath, jax.Array]:
    """Return path -> array of all that a model holds but the state of random numbers.

    Of an ordinary model these are its parameters.
    """
    return flatten(nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngState))))


def shapes_of(parameters: Mapping) -> dict[ParameterPath, tuple[int, ...]]:
    """Return path -> shape of parameters."""
    return {path: tuple(leaf.shape) for path, leaf in parameters.items()}


def slots_of(
    config: Any, parameters: Mapping, *, layout: str | None = None, keys=()
) -> dict[str, Slot]:
    """Return key -> slot of every tensor of a model in a layout.

    Args:
      config: the model's.
      parameters: its parameters, or their shapes and dtypes.
      layout: None for the one that it is saved in.
      keys: those at hand, which may be aliases, or a second copy stored alone.
    """
    architecture = architecture_of(config)
    if layout is None:
        layout = architecture.layout_to_write(config)
    seconds: dict[ParameterPath, tuple[str, ...]] = {}
    for key, path in architecture.copies(config).items():
        seconds[path] = (*seconds.get(path, ()), key)
    table = [
        row._replace(aliases=(*row.aliases, *seconds.get(row.path, ())))
        for row in architecture.table(layout, parameters)
    ]
    return slots(table, shapes_of(parameters), keys, getattr(config, "run_starts", {}))
