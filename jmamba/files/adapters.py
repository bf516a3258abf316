"""Low-rank adapters as PEFT writes them: read, checked, and merged into weights.

A folder holds `adapter_config.json` and `adapter_model.safetensors`, in which a matrix
`W` of a model has two tensors, `base_model.model.<path>.lora_A.weight` of shape (r, in)
and `.lora_B.weight` of shape (out, r). Merged it is

    W + scale B A,   scale = alpha / r, or alpha / sqrt(r) with `use_rslora`.

References:
  Hu et al., "LoRA", arXiv 2106.09685, section 4.1.
  Kalajdzievski, "rsLoRA", arXiv 2312.03732, for the scale.
  PEFT, "Checkpoint format", huggingface.co/docs/peft/developer_guides/checkpoint.
"""

import logging
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jmamba.files.errors import CheckpointError, compress
from jmamba.files.folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from jmamba.files.hub import locate, locate_bare
from jmamba.files.json_files import read_json
from jmamba.files.tensors import FLOATS, StoredTensor
from jmamba.files.untrusted import reading
from jmamba.files.weight_files import PREFERENCE, open_weights

_LOGGER = logging.getLogger("jmamba")
_SIDES = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")
_PLAIN = frozenset(
    # what leaves the sum above alone: who made it, and how it was trained
    "peft_type peft_version task_type base_model_name_or_path revision auto_mapping"
    " inference_mode r lora_alpha lora_dropout use_rslora alpha_pattern rank_pattern"
    " target_modules exclude_modules modules_to_save layers_to_transform layers_pattern"
    " bias fan_in_fan_out init_lora_weights runtime_config ensure_weight_tying"
    " megatron_core qalora_group_size eva_config loftq_config corda_config"
    " lora_ga_config".split()
)
_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Ways to start that leave the base model's weights as they are."""


class LowRank(NamedTuple):
    """The two factors of one matrix' change, and what they are multiplied with.

    Attributes:
      A: (r, in).
      B: (out, r).
      scale: of their product.
      is_table: whether the matrix is an embedding table, (in, out) of its factors.
    """

    A: np.ndarray
    B: np.ndarray
    scale: float
    is_table: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the matrix that they change."""
        shape = self.B.shape[0], self.A.shape[1]
        return shape[::-1] if self.is_table else shape

    def add_to(self, tensor: StoredTensor) -> StoredTensor:
        """Return the sum of a matrix and its change, in float32 at least."""

        def read(part: tuple[slice, ...] = ()) -> np.ndarray:
            weight = tensor.read()
            dtype = np.promote_types(weight.dtype, np.float32)
            change = self.scale * (self.B.astype(dtype) @ self.A.astype(dtype))
            whole = weight.astype(dtype) + (change.T if self.is_table else change)
            return whole[part]

        return tensor._replace(read=read)


class Adapter(NamedTuple):
    """What a folder of an adapter holds.

    Attributes:
      folder: the folder.
      changes: name of a matrix as the adapter has it -> its change.
      replaced: name -> tensor that was trained as a whole, in the base's place.
    """

    folder: Path
    changes: dict[str, LowRank]
    replaced: dict[str, StoredTensor]


class ModelPlace(NamedTuple):
    """Where a model is, and the adapter that is to be merged into it, if any."""

    place: Path
    adapter: Adapter | None = None


def find_checkpoint(
    path_or_id: str | os.PathLike,
    released: Iterable[str] | None,
    *,
    revision: str | None = None,
    base: str | os.PathLike | None = None,
    filename: str | None = None,
) -> ModelPlace:
    """Return the local place of a model, downloading it if need be.

    Args:
      path_or_id: file, folder or Hub id of a model, or of an adapter.
      released: files to look for on the Hub where there is no config.json; None if
        there must be one.
      revision: branch, tag or commit on the Hub.
      base: file, folder or Hub id of the model that an adapter was trained on.
      filename: which file of a folder or Hub repository.

    Raises:
      CheckpointError: it is not there; it is an adapter without a base, or there is a
        base and no adapter.
    """
    place = _locate(path_or_id, released, revision, filename)
    has_adapter = (place / ADAPTER_CONFIG).is_file()
    if base is None and is_adapter(place):
        raise explain_adapter(place)
    if base is None and has_adapter:
        _LOGGER.warning(
            "%s: left out an adapter that lies beside the model; to add it give "
            "base=%r.",
            place,
            str(place),
        )
    if base is None:
        return ModelPlace(place)
    if not has_adapter:
        raise CheckpointError(
            f"{path_or_id} is no LoRA adapter (a folder with adapter_config.json), so "
            f"there is nothing to add to the base {base}; leave the base out."
        )
    adapter = read_adapter(place)
    place = _locate(base, released)
    if is_adapter(place):
        raise explain_adapter(place)
    return ModelPlace(place, adapter)


def _locate(
    path_or_id: str | os.PathLike,
    released: Iterable[str] | None,
    revision: str | None = None,
    filename: str | None = None,
) -> Path:
    if released is None:
        return locate(path_or_id, revision=revision)
    return locate_bare(path_or_id, released, revision=revision, filename=filename)


def is_adapter(place: Path) -> bool:
    """Say whether a folder holds an adapter and no model."""
    return (place / ADAPTER_CONFIG).is_file() and not any(
        (place / name).is_file() for name in PREFERENCE
    )


def explain_adapter(folder: Path) -> CheckpointError:
    """Return the error that says what to do with an adapter whose base is not given."""
    made_for = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    named = f" (it was trained on {made_for})" if made_for else ""
    base = made_for or "BASE"
    return CheckpointError(
        f"{folder} holds a LoRA adapter and no model: it needs the one that it was "
        f"trained on{named}. In Python give base={str(base)!r} to from_pretrained; on "
        f"the command line write a merged model first: jmamba convert {folder} MERGED "
        f"--base {base}"
    )


def read_adapter(folder: Path) -> Adapter:
    """Return an adapter.

    Raises:
      CheckpointError: it is not of the plain kind, damaged or incomplete.
    """
    raw = read_json(folder / ADAPTER_CONFIG)
    _check_kind(raw, folder)
    file = next((folder / n for n in ADAPTER_WEIGHTS if (folder / n).is_file()), None)
    if file is None:
        raise CheckpointError(
            f"{folder} holds an {ADAPTER_CONFIG} but no {' or '.join(ADAPTER_WEIGHTS)};"
            " copy or download it again."
        )
    sides: dict[str, dict[str, np.ndarray]] = {}
    replaced: dict[str, StoredTensor] = {}
    odd: list[str] = []
    with open_weights(file) as tensors:
        for name, tensor in tensors.items():
            parts = name.split(".")
            side = next((part for part in parts if part in _SIDES), None)
            if tensor.dtype not in FLOATS or (side is None and "lora_" in name):
                odd.append(f"{name} ({tensor.dtype})")
            elif side is None:
                value = tensor.read()  # small, and the file is closed soon
                replaced[name] = tensor._replace(
                    read=lambda part=(), value=value: value[part]
                )
            else:
                matrix = ".".join(parts[: parts.index(side)]) + ".weight"
                sides.setdefault(matrix, {})[side] = tensor.read()
    if odd:
        raise CheckpointError(
            f"{file} holds tensors that are no plain LoRA's: {compress(odd)}. "
            + _MERGE_IT
        )
    return Adapter(folder, _pair(sides, raw, file), replaced)


def _pair(sides: Mapping, raw: Mapping[str, Any], file: Path) -> dict[str, LowRank]:
    changes, wrong = {}, []
    for name, found in sides.items():
        is_table = "lora_embedding_A" in found
        kind = "lora_embedding_" if is_table else "lora_"
        A, B = found.get(f"{kind}A"), found.get(f"{kind}B")
        if A is None or B is None or len(found) != 2:
            wrong.append(f"{name} (only {', '.join(found)})")
        elif A.ndim != 2 or B.ndim != 2 or not 0 < A.shape[0] == B.shape[1]:
            wrong.append(f"{name} (A {A.shape}, B {B.shape})")
        else:
            with reading(file.parent / ADAPTER_CONFIG, "is not that of a LoRA"):
                scale = _scale(raw, name, A.shape[0])
            changes[name] = LowRank(A, B, scale, is_table)
    if wrong:
        raise CheckpointError(
            f"{file} does not hold two matrices A (r, in) and B (out, r) for each "
            f"weight: {compress(wrong, separator='; ')}. Of convolutions and other "
            f"layers an adapter is not merged here. {_MERGE_IT}"
        )
    return changes


def _scale(raw: Mapping[str, Any], name: str, rank: int) -> float:
    """Return the scale of a matrix' change; patterns name modules by their endings."""
    module = name.removesuffix(".weight")
    alpha = raw.get("lora_alpha", 8)
    for pattern, other in (raw.get("alpha_pattern") or {}).items():
        if len(name) > 500 or _SLOW.search(pattern):
            raise CheckpointError(
                f"alpha_pattern {pattern[:80]!r} may take for ever. {_MERGE_IT}"
            )
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            alpha = other
            break
    if isinstance(alpha, bool) or not math.isfinite(alpha):
        raise CheckpointError(f"lora_alpha must be a number, but is {alpha!r}.")
    return alpha / (math.sqrt(rank) if raw.get("use_rslora") else rank)


_SLOW = re.compile(r"\)[*+?{]|([*+?{].*){3}|\\[1-9]", re.DOTALL)
"""Patterns whose time grows faster than the cube of a name's length."""

_MERGE_IT = (
    "Merge it with PEFT, model.merge_and_unload().save_pretrained(...), and load that."
)


def _check_kind(raw: Mapping[str, Any], folder: Path) -> None:
    """Raise unless an adapter is a plain LoRA.

    `fan_in_fan_out` says how the base keeps its weights; those of a Mamba are kept
    (out, in), for which PEFT itself turns it off.

    Raises:
      CheckpointError: it is DoRA or another kind; the message names it.
    """
    kind = str(raw.get("peft_type", "LORA")).upper()
    refused = [] if kind == "LORA" else [f"peft_type {kind}"]
    if raw.get("use_dora"):
        refused.append("DoRA (use_dora)")
    if raw.get("init_lora_weights", True) not in _INITS:
        refused.append(f"init_lora_weights {raw['init_lora_weights']!r}")
    known = _PLAIN | {"use_dora"}
    if kind == "LORA":
        refused += [
            f"{key} {raw[key]!r}" for key in raw if key not in known and raw[key]
        ]
    if refused:
        raise CheckpointError(
            f"{folder} holds an adapter that is no plain LoRA: {', '.join(refused)}. "
            + _MERGE_IT
        )
