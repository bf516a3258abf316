"""Loading a model of any architecture, from a local place or the Hub."""

import dataclasses
import math
import os
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jmamba.files.adapters import Adapter, find_checkpoint
from jmamba.files.dtypes import choose_dtypes, main_dtype
from jmamba.files.errors import CheckpointError
from jmamba.files.filling import ByteProgress, check_copy, fill, fill_parts
from jmamba.files.gguf_files import is_gguf
from jmamba.files.keys import ParameterPath
from jmamba.files.orbax_files import is_orbax, read_metadata, read_parameters
from jmamba.files.tensors import FLOATS, StoredTensor
from jmamba.files.torch_files import PARTS, check_part, read_training_checkpoint
from jmamba.files.untrusted import as_path
from jmamba.files.validation import check_keys, check_layer_count
from jmamba.files.vocabulary import read_generation, read_settings
from jmamba.files.weight_files import Weights, find_weights, read_headers, unwrap
from jmamba.layers.stack import Remat
from jmamba.models.architecture import Architecture, find_architecture
from jmamba.models.gguf import find_gguf_weights
from jmamba.models.settings import architecture_at, has_settings, settings_at
from jmamba.models.sharding import Sharding
from jmamba.models.skeleton import Skeleton, make_skeleton
from jmamba.models.weights import fit_weights, merge_adapter, name_weights, tell

ShardingChoice = Sharding | Callable[..., jax.sharding.Sharding]
"""Says where parameters are to lie: by rules, or called as sharding(path, shape)."""


class Choices(NamedTuple):
    """How a model is to be loaded, whatever it is loaded from.

    Attributes:
      dtype: compute and storage dtype; None for float32, "auto" for the checkpoint's.
      param_dtype: storage dtype, if it is to differ.
      remat: whether the backward pass recomputes each block, or a policy.
      sharding: where parameters are to lie; None for the default device.
    """

    dtype: Any = None
    param_dtype: Any = None
    remat: Remat = False
    sharding: ShardingChoice | None = None

    def skeleton(self, config: Any, stored: list[str]) -> Skeleton:
        """Return the model without values, given the dtypes of stored tensors."""
        compute, param = choose_dtypes(self.dtype, self.param_dtype, main_dtype(stored))
        return make_skeleton(config, dtype=compute, param_dtype=param, remat=self.remat)

    def places(
        self, skeleton: Skeleton
    ) -> dict[ParameterPath, jax.sharding.Sharding] | None:
        """Return where the parameters are to lie; None for the default device.

        Raises:
          ValueError: a mesh does not divide the model.
        """
        choice = self.sharding
        if choice is None:
            return None
        if isinstance(choice, Sharding):
            return {**choice.places(skeleton.model)}
        return {path: choice(path, shape) for path, shape in skeleton.shapes.items()}


def load_model(
    kinds: Sequence[Architecture],
    path_or_id: str | os.PathLike,
    choices: Choices,
    *,
    revision: str | None = None,
    base: str | os.PathLike | None = None,
    filename: str | None = None,
    part: str = PARTS[0],
    changes: Mapping[str, Any] | None = None,
) -> Any:
    """Load a model of one of some architectures; see `StackedModel.from_pretrained`."""
    check_part(part)
    bare = [one.bare for one in kinds if one.bare is not None]
    released = [name for files in bare for name in files.released] if bare else None
    found = find_checkpoint(
        path_or_id, released, revision=revision, base=base, filename=filename
    )
    architecture = kinds[0] if len(kinds) == 1 else architecture_at(found.place)
    if architecture not in kinds:
        names = " or ".join(one.model_class.__name__ for one in kinds)
        name = architecture.model_class.__name__
        raise CheckpointError(
            f"{path_or_id} is a {name}, not a {names}: such models load with "
            f"{name}.from_pretrained."
        )
    return read_model(
        architecture,
        found.place,
        choices,
        part=part,
        changes=changes,
        adapter=found.adapter,
    )


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
      sharding: a `Sharding`, or called as sharding(path, shape) ->
        jax.sharding.Sharding, so that every host and device reads only its part; None
        for the default device.

    Returns:
      A model of the architecture that the folder's config.json says.

    Raises:
      CheckpointError: the folder is no such checkpoint, is damaged, or its parameters
        do not fit its config.json or are not finite.
    """
    folder = as_path(directory).absolute()
    file = folder / "config.json"
    raw = read_settings(file)
    architecture = find_architecture(raw, str(file))
    config, _ = architecture.read(raw, str(file))
    choices = Choices(dtype, param_dtype, remat, sharding)
    config = _with_generation(config, folder)
    return _read_orbax(architecture, folder, config, choices)


def read_model(
    architecture: Architecture,
    place: Path,
    choices: Choices,
    *,
    part: str = PARTS[0],
    changes: Mapping[str, Any] | None = None,
    adapter: Adapter | None = None,
    progress: ByteProgress | None = None,
) -> Any:
    """Load a model from a local file or folder, telling `progress` the bytes read."""
    stored = _read_config(architecture, place, changes)
    if stored is not None and is_orbax(place):
        if adapter is not None:
            raise CheckpointError(
                f"{place} is an Orbax checkpoint, into which no adapter is merged: "
                "give the base in safetensors or PyTorch files."
            )
        _check_plain(place, part)
        return _read_orbax(architecture, place, stored[0], choices)
    if stored is not None and is_gguf(place):
        weights, arguments = find_gguf_weights(place, architecture, stored[0]), None
        headers = read_headers(weights)
        telling = {"": max(headers.values(), key=lambda x: math.prod(x.shape))}
    else:
        weights, arguments = _find(architecture, place, part)
        telling = headers = read_headers(weights)
    says = "its config.json"
    if stored is None:
        bare = architecture.bare
        assert bare is not None
        named = name_weights(architecture, bare.layout, (), weights, headers)
        shapes = {key: tensor.shape for key, tensor in named.stored.items()}
        config = bare.infer_config(shapes, arguments, str(place), changes)
        stored = config, bare.layout
        kind = architecture.model_class.__name__
        says = f"a {kind} of {config.num_layers} layers and width {config.d_model}"
    config, layout = stored
    check_layer_count(
        config.num_layers,
        {key: tensor.shape for key, tensor in headers.items()},
        str(place),
        explain=lambda found: architecture.explain(found, config),
    )
    skeleton = choices.skeleton(config, _float_dtypes(telling))
    parameters, places = skeleton.parameters, choices.places(skeleton)
    named = name_weights(architecture, layout, parameters, weights, headers)
    fitted = fit_weights(
        named, architecture, config, layout, parameters, where=str(place), says=says
    )
    for copy, key in fitted.copies.items():
        check_copy(named.weights, copy, key)
    weights = named.weights
    if adapter is not None:
        weights = merge_adapter(
            weights, adapter, architecture, config, layout, fitted.table
        )
    tell(place, (*named.notes, *fitted.notes))
    if places is not None:
        return skeleton.build(fill_parts(parameters, fitted.table, weights, places))
    return skeleton.build(fill(parameters, fitted.table, weights, progress))


def _float_dtypes(headers: Mapping[str, StoredTensor]) -> list[str]:
    """Return the dtypes of weights; there may be none, which is said later."""
    dtypes = [t.dtype for t in headers.values() if t.dtype in FLOATS]
    return [FLOATS[dtype].name for dtype in dtypes] or ["float32"]


def _read_config(
    architecture: Architecture, place: Path, changes: Mapping[str, Any] | None
) -> tuple[Any, str] | None:
    """Return configuration and layout of a place; None where its files are bare."""
    if architecture.bare is not None and not has_settings(place):
        return None
    raw, where = settings_at(place)
    config, layout = architecture.read(raw | dict(changes or {}), where)
    return _with_generation(config, place), layout


def _with_generation(config: Any, folder: Path) -> Any:
    """Return a configuration that knows the generation_config.json beside it."""
    generation = read_generation(folder)
    if generation is None or not hasattr(config, "generation_config"):
        return config
    return dataclasses.replace(config, generation_config=generation)


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
        return unwrap(weights), None
    args = content.get("args")
    weights = weights._replace(part=part, is_wrapped=False)
    return weights, args if isinstance(args, Namespace) else None


def _check_plain(place: Path, part: str) -> None:
    if part != PARTS[0]:
        raise CheckpointError(f"{place} holds plain weights and no {part!r}.")


def _read_orbax(
    architecture: Architecture,
    folder: Path,
    config: Any,
    choices: Choices,
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
    places = choices.places(skeleton) or dict.fromkeys(skeleton.parameters, default)
    wanted = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=places[path])
        for path, leaf in skeleton.parameters.items()
    }
    return skeleton.build(read_parameters(folder, wanted))
