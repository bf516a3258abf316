"""Loading a model of any architecture, from a local place or the Hub."""

import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jmamba.files.dtypes import choose_dtypes, main_dtype
from jmamba.files.errors import CheckpointError
from jmamba.files.filling import ByteProgress, check_copy, fill
from jmamba.files.hub import locate, locate_bare
from jmamba.files.orbax_files import is_orbax, read_metadata, read_parameters
from jmamba.files.tensors import FLOATS
from jmamba.files.torch_files import PARTS, check_part, read_training_checkpoint
from jmamba.files.validation import check_keys
from jmamba.files.vocabulary import read_settings
from jmamba.files.weight_files import Weights, find_weights, read_headers
from jmamba.layers.stack import Remat
from jmamba.models.architecture import Architecture, find_architecture
from jmamba.models.skeleton import Skeleton, make_skeleton, slots_of

ShardingChoice = Callable[..., jax.sharding.Sharding]
"""Called as sharding(path, shape), says where a parameter is to lie."""


class Choices(NamedTuple):
    """How a model is to be loaded, whatever it is loaded from.

    Attributes:
      dtype: compute and storage dtype; None for float32, "auto" for the checkpoint's.
      param_dtype: storage dtype, if it is to differ.
      remat: whether the backward pass recomputes each block, or a policy.
    """

    dtype: Any = None
    param_dtype: Any = None
    remat: Remat = False

    def skeleton(self, config: Any, stored: list[str]) -> Skeleton:
        """Return the model without values, given the dtypes of stored tensors."""
        compute, param = choose_dtypes(self.dtype, self.param_dtype, main_dtype(stored))
        return make_skeleton(config, dtype=compute, param_dtype=param, remat=self.remat)


def load_model(
    architecture: Architecture,
    path_or_id: str | os.PathLike,
    choices: Choices,
    *,
    revision: str | None = None,
    filename: str | None = None,
    part: str = PARTS[0],
    changes: Mapping[str, Any] | None = None,
) -> Any:
    """Load a model of one architecture; see `StackedModel.from_pretrained`."""
    check_part(part)
    if architecture.bare is None:
        place = locate(path_or_id, revision=revision)
    else:
        released = architecture.bare.released
        place = locate_bare(path_or_id, released, revision=revision, filename=filename)
    return read_model(architecture, place, choices, part=part, changes=changes)


def load_orbax(
    directory: str | os.PathLike,
    *,
    dtype=None,
    param_dtype=None,
    remat: Remat = False,
    sharding: ShardingChoice | None = None,
) -> Any:
    """Load a model that `save_orbax` wrote.

    Args:
      directory: the folder.
      dtype: compute and storage dtype; None for float32, "auto" for the stored one.
      param_dtype: storage dtype, if it is to differ.
      remat: whether the backward pass recomputes each block, or a policy.
      sharding: called as sharding(path, shape) -> jax.sharding.Sharding, so that every
        host and device reads only its part; None for the default device.

    Returns:
      A model of the architecture that the folder's config.json says.

    Raises:
      CheckpointError: the folder is no such checkpoint, is damaged, or its parameters
        do not fit its config.json or are not finite.
    """
    folder = Path(directory).expanduser().absolute()
    file = folder / "config.json"
    raw = read_settings(file)
    architecture = find_architecture(raw, str(file))
    config, _ = architecture.read(raw, str(file))
    choices = Choices(dtype, param_dtype, remat)
    return _read_orbax(architecture, folder, config, choices, sharding)


def read_model(
    architecture: Architecture,
    place: Path,
    choices: Choices,
    *,
    part: str = PARTS[0],
    changes: Mapping[str, Any] | None = None,
    progress: ByteProgress | None = None,
) -> Any:
    """Load a model from a local file or folder, telling `progress` the bytes read."""
    stored = _read_config(architecture, place, changes)
    if stored is not None and is_orbax(place):
        _check_plain(place, part)
        return _read_orbax(architecture, place, stored[0], choices, None)
    weights, arguments = _find(architecture, place, part)
    found = read_headers(weights)
    shapes = {key: tensor.shape for key, tensor in found.items()}
    says = "its config.json"
    if stored is None:
        bare = architecture.bare
        assert bare is not None
        config = bare.infer_config(shapes, arguments, str(place), changes)
        stored = config, bare.layout
        kind = architecture.model_class.__name__
        says = f"a {kind} of {config.num_layers} layers and width {config.d_model}"
    config, layout = stored
    dtypes = [FLOATS[tensor.dtype].name for tensor in found.values()]
    skeleton = choices.skeleton(config, dtypes)
    table = slots_of(config, skeleton.parameters, layout=layout, keys=found)
    needed = {key: slot.shape for key, slot in table.items()}
    first = {slot.path: key for key, slot in table.items()}
    copies = {
        key: first[path]
        for key, path in architecture.copies(config).items()
        if key in found
    }
    check_keys(
        needed | {copy: needed[key] for copy, key in copies.items()},
        shapes,
        str(place),
        says=says,
        explain=lambda found: architecture.explain(found, config),
    )
    for copy, key in copies.items():
        check_copy(weights, copy, key)
    return skeleton.build(fill(skeleton.parameters, table, weights, progress))


def _read_config(
    architecture: Architecture, place: Path, changes: Mapping[str, Any] | None
) -> tuple[Any, str] | None:
    """Return configuration and layout of a place; None where its files are bare."""
    file = place / "config.json"
    if architecture.bare is not None and not file.is_file():
        return None
    return architecture.read(read_settings(file) | dict(changes or {}), str(file))


def _find(
    architecture: Architecture, place: Path, part: str
) -> tuple[Weights, Namespace | None]:
    """Return the weights, and the training arguments beside them."""
    if place.is_dir():
        weights = find_weights(place)
    elif place.suffix in (".pth", ".pt", ".bin", ".safetensors"):
        weights = Weights((place,))
    else:
        raise CheckpointError(
            f"{place} is no weight file; give one that ends in .pth, .pt, .bin or "
            ".safetensors, or a folder that holds it."
        )
    if architecture.bare is None:
        return weights, None
    file = weights.files[0]
    if not file.is_file():
        raise CheckpointError(f"There is no file {file}; check the name.")
    content = {} if file.suffix == ".safetensors" else read_training_checkpoint(file)
    if not any(isinstance(content.get(name), dict) for name in PARTS):
        _check_plain(file, part)
        return weights, None
    args = content.get("args")
    return weights._replace(part=part), args if isinstance(args, Namespace) else None


def _check_plain(place: Path, part: str) -> None:
    if part != PARTS[0]:
        raise CheckpointError(f"{place} holds plain weights and no {part!r}.")


def _read_orbax(
    architecture: Architecture,
    folder: Path,
    config: Any,
    choices: Choices,
    sharding: ShardingChoice | None,
) -> Any:
    stored = read_metadata(folder)
    dtypes = [np.dtype(leaf.dtype).name for leaf in stored.values()]
    skeleton = choices.skeleton(config, dtypes)
    check_keys(
        {".".join(path): shape for path, shape in skeleton.shapes.items()},
        {".".join(path): tuple(leaf.shape) for path, leaf in stored.items()},
        str(folder),
        explain=lambda found: architecture.explain(found, config),
    )
    default = jax.sharding.SingleDeviceSharding(jnp.zeros(()).device)  # type: ignore[arg-type]
    wanted = {
        path: jax.ShapeDtypeStruct(
            leaf.shape,
            leaf.dtype,
            sharding=sharding(path, leaf.shape) if sharding else default,
        )
        for path, leaf in skeleton.parameters.items()
    }
    return skeleton.build(read_parameters(folder, wanted))
