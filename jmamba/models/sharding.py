"""How a model and its batches lie on several devices: one object says it."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from jmamba.layers.letters import Path, letters_of, path_of
from jmamba.models.placing import Rows, place_array

Model = TypeVar("Model", bound=nnx.Module)

MESH_AXES = ("data", "fsdp", "sequence", "tensor")
"""Axes of the mesh, the ones that exchange most being the last: neighbours."""

RULES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "b": ("data", "fsdp"),
        "l": ("sequence",),
        "d": ("tensor",),
        "h": ("tensor",),
        "v": ("tensor",),
        "m": ("fsdp",),
        "r": ("fsdp",),
    }
)
"""Letter -> axes of the mesh that split it. Of m and r only parameters are split: their
parts are gathered layer by layer, for activations that stay where they are."""


@dataclasses.dataclass(frozen=True)
class Sharding:
    """A mesh of devices, and what each of its axes splits.

    data       rows of a batch; every device of it has the whole model
    fsdp       rows of a batch, and parameters, which are gathered layer by layer
    sequence   tokens; states are handed on from part to part
    tensor     channels, heads and the vocabulary

    Args:
      data, fsdp, sequence, tensor: devices along the axis.
      devices: which; None for all there are.

    Raises:
      ValueError: a number is none, or their product is not that of the devices.

    Examples:
      >>> one = Sharding(devices=jax.devices()[:1])
      >>> tuple(one.spec("vm", (24, 8)))
      ('tensor', 'fsdp')
      >>> one.mesh.shape_tuple
      (('data', 1), ('fsdp', 1), ('sequence', 1), ('tensor', 1))

    References:
      Zhao et al., "PyTorch FSDP", arXiv 2304.11277; Xu et al., "GSPMD", arXiv
      2105.04663, section 3.
    """

    data: int = 1
    fsdp: int = 1
    sequence: int = 1
    tensor: int = 1
    devices: Sequence[Any] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self):
        """Check that there are as many devices as the axes say."""
        if self.devices is not None:
            object.__setattr__(self, "devices", tuple(self.devices))
        sizes = self.shape
        if any(isinstance(n, bool) or not isinstance(n, int) or n < 1
               for n in sizes.values()):  # fmt: skip
            raise ValueError(f"{self}: all axes must be whole numbers from 1 on.")
        there, needed = len(self.devices or jax.devices()), math.prod(sizes.values())
        if there != needed:
            raise ValueError(
                f"{self} is a mesh of {needed} devices, but there are {there}. Give "
                f"axes whose product is {there}, such as Sharding(fsdp={there}), or "
                f"devices=jax.devices()[:{needed}] to use some of them."
            )

    @classmethod
    def parse(cls, text: str, devices: Iterable[Any] | None = None) -> "Sharding":
        """Return the sharding of a text such as "fsdp=4,tensor=2".

        Raises:
          ValueError: it names other axes, or what is no number.

        Examples:
          >>> Sharding.parse("data=1,tensor=1", jax.devices()[:1])
          Sharding(data=1, fsdp=1, sequence=1, tensor=1)
        """
        found = {}
        for part in filter(None, text.split(",")):
            name, _, size = (word.strip() for word in part.partition("="))
            if name not in MESH_AXES or name in found or not size.isdecimal():
                raise ValueError(
                    f"{text!r} is no mesh; write each of some of the axes "
                    f"{', '.join(MESH_AXES)} once, as in fsdp=4,tensor=2."
                )
            found[name] = int(size)
        return cls(**found, devices=None if devices is None else tuple(devices))

    @property
    def shape(self) -> dict[str, int]:
        """Axis of the mesh -> devices along it."""
        return {name: getattr(self, name) for name in MESH_AXES}

    @cached_property
    def mesh(self) -> Mesh:
        """The mesh, whose axes are part of the types of arrays."""
        types = (AxisType.Explicit,) * len(MESH_AXES)
        sizes = tuple(self.shape.values())
        return jax.make_mesh(sizes, MESH_AXES, axis_types=types, devices=self.devices)

    def spec(self, letters: str, shape: Sequence[int]) -> PartitionSpec:
        """Return how an array lies: an axis that is not divided evenly is whole.

        Args:
          letters: of its axes; what the rules do not name is whole.
          shape: of the array.
        """
        entries: list[Any] = []
        for letter, size in zip(letters, shape, strict=True):
            names = RULES.get(letter, ())
            is_even = size % math.prod(self.shape[name] for name in names) == 0
            axes = names if is_even else ()
            entries.append(axes[0] if len(axes) == 1 else axes or None)
        return PartitionSpec(*entries)

    def place(self, letters: str, shape: Sequence[int]) -> NamedSharding:
        """Return where an array lies; see `spec`."""
        return NamedSharding(self.mesh, self.spec(letters, shape))

    def check(self, config: Any) -> None:
        """Raise unless the mesh divides the channels, heads and width of a model.

        Raises:
          ValueError: it does not.
        """
        sizes = {"d_model": self.fsdp, "d_inner": self.tensor, "num_heads": self.tensor}
        for name, count in sizes.items():
            size = getattr(config, name, None)
            if size is not None and size % count:
                axis = "fsdp" if name == "d_model" else "tensor"
                raise ValueError(
                    f"{self}: {name}={size} is not divided by {axis}={count}; give a "
                    f"divisor of it, such as {axis}={math.gcd(size, count)}."
                )

    def check_batch(self, batch: int, length: int) -> None:
        """Raise unless the mesh divides the rows and tokens of a batch.

        Raises:
          ValueError: it does not.
        """
        rows = self.data * self.fsdp
        if batch % rows:
            raise ValueError(
                f"{self}: a batch of {batch} rows is not divided by data x fsdp = "
                f"{rows}; give a multiple of it."
            )
        if length % self.sequence:
            raise ValueError(
                f"{self}: {length} tokens are not divided by sequence="
                f"{self.sequence}; give a multiple of it."
            )

    def places(self, model: nnx.Module) -> dict[Path, NamedSharding]:
        """Return path -> where each parameter of a model lies.

        Args:
          model: with values, or without as `nnx.eval_shape` makes it.

        Raises:
          ValueError: the mesh does not divide it.
        """
        self.check(model.config)  # type: ignore[attr-defined]
        letters = letters_of(model)
        leaves = jax.tree.leaves_with_path(nnx.state(model, nnx.Param))
        shapes = {path_of(keys): leaf.shape for keys, leaf in leaves}
        return {path: self.place(letters[path], shapes[path]) for path in letters}

    def place_model(self, model: Model) -> Model:
        """Return a model whose parameters lie where the rules say.

        Raises:
          ValueError: the mesh does not divide it.
        """
        places = self.places(model)
        graphdef, state = nnx.split(model)
        whole = NamedSharding(self.mesh, PartitionSpec())

        def put(keys, x):
            return place_array(x, places.get(path_of(keys), whole))

        return nnx.merge(graphdef, jax.tree.map_with_path(put, state))

    def make_model(self, make: Callable[[], Model]) -> Model:
        """Return a new model whose parameters are made where they are to lie.

        One program makes all of them, each device its own parts.

        Args:
          make: makes a model; it takes no arrays from outside.

        Raises:
          ValueError: the mesh does not divide it.
        """
        model = nnx.eval_shape(make)
        places = self.places(model)
        graphdef, state = nnx.split(model)
        whole = NamedSharding(self.mesh, PartitionSpec())
        laid = jax.tree.map_with_path(
            lambda keys, x: places.get(path_of(keys), whole), state
        )
        run: Any = jax.jit(lambda: nnx.split(make())[1], out_shardings=laid)
        return nnx.merge(graphdef, run())

    def rows_here(self, batch: int) -> Int[np.ndarray, "k"]:
        """Return the numbers of the rows that devices of this process have.

        Args:
          batch: rows in all.

        Raises:
          ValueError: the mesh does not divide them.

        Examples:
          >>> Sharding(devices=jax.devices()[:1]).rows_here(3).tolist()
          [0, 1, 2]
        """
        self.check_batch(batch, 0)
        parts = self.place("b", (batch,)).addressable_devices_indices_map((batch,))
        rows = np.arange(batch)
        return np.unique(np.concatenate([rows[i] for i in parts.values() if i]))

    def place_batch(self, batch: Any, *, rows: int | None = None) -> Any:
        """Return arrays (b, ...), or (b, l) of tokens, each device having its part.

        Args:
          batch: a pytree of arrays. Those of two axes are tokens, whose second axis
            `sequence` splits.
          rows: of the whole batch, where `batch` has only those of `rows_here`.

        Raises:
          ValueError: the mesh does not divide rows or tokens.
        """

        part = None if rows is None else Rows(rows, self.rows_here(rows))

        def put(x):
            count = x.shape[0] if rows is None else rows
            letters = "bl" if jnp.ndim(x) == 2 else "b" + "_" * (jnp.ndim(x) - 1)
            self.check_batch(count, x.shape[1] if letters == "bl" else 0)
            place = self.place(letters, (count, *x.shape[1:]))
            return place_array(x, place, part)

        return jax.tree.map(put, batch)
