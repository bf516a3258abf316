"""Converting a PyTorch checkpoint into one of jmamba's, or back."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

from jmamba.checkpoints.formats import FORMATS, Origin
from jmamba.checkpoints.verification import (
    Verification,
    check_verifiable,
    verify_logits,
    why_unverifiable,
)
from jmamba.files.adapters import find_checkpoint
from jmamba.files.checksums import compare_checksums
from jmamba.files.errors import CheckpointError
from jmamba.files.filling import ByteProgress
from jmamba.files.folders import CHECKSUMS
from jmamba.files.gguf_files import is_gguf
from jmamba.files.hub import locate_files
from jmamba.files.orbax_files import is_orbax
from jmamba.files.torch_files import PARTS, check_part
from jmamba.files.untrusted import as_path
from jmamba.models.architecture import Architecture, registered
from jmamba.models.base import StackedModel
from jmamba.models.loading import Choices, read_model
from jmamba.models.settings import architecture_at, has_settings, settings_at
from jmamba.models.skeleton import parameters_of
from jmamba.surgery.rebuilding import as_free


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What a conversion read, wrote and found.

    Attributes:
      source: what was asked for: folder or Hub id.
      destination: the folder or file that was written.
      layout: of the source: original, hf, falcon, vim, orbax, gguf or another's.
      format: of the destination: orbax, hf or gguf.
      dtype: of the written weights; A_log, D and dt_bias are float32 at least.
      num_layers: blocks of the model.
      num_parameters: numbers in the model.
      source_bytes: size of the source's files.
      destination_bytes: size of the destination's files.
      seconds: time it took, download included.
      num_checked: files of the source that were compared with its SHA256SUMS.
      verification: how far the logits are from transformers', if that was asked for and
        transformers reads the source.
    """

    source: str
    destination: Path
    layout: str
    format: str
    dtype: str
    num_layers: int
    num_parameters: int
    source_bytes: int
    destination_bytes: int
    seconds: float
    num_checked: int
    verification: Verification | None


def convert(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    *,
    format: str = "orbax",
    dtype=None,
    revision: str | None = None,
    verify: bool = False,
    overwrite: bool = False,
    free: bool = False,
    part: str = PARTS[0],
    base: str | os.PathLike | None = None,
    progress: ByteProgress | None = None,
) -> Conversion:
    """Convert a checkpoint of any layout that an architecture reads.

    Args:
      source: folder, Hub id or GGUF file, or a file of Vision Mamba's authors; with
        `base`, of a LoRA adapter that PEFT wrote.
      destination: the folder to make, of GGUF the file; it appears only when it is
        complete.
      format: "orbax" for JAX, "hf" for safetensors with the names of transformers, or
        of Vision Mamba's authors; "gguf" for the file that llama.cpp reads, which needs
        the gguf package.
      dtype: dtype of the written weights; None for the source's. Of GGUF also "q8_0",
        and llama.cpp's names "f32", "f16", "bf16".
      revision: branch, tag or commit on the Hub.
      verify: whether to compare the source's files with its SHA256SUMS, where it has
        them, and logits with those that transformers gets from the source, which needs
        transformers and torch.
      overwrite: whether a checkpoint that is there already is replaced; other files of
        its folder stay.
      free: whether definite gates are written out as those of an ordinary model, which
        transformers loads; see `surgery.as_free`.
      part: of a training checkpoint of Vision Mamba's authors: "model", or "model_ema"
        for the moving average of the weights.
      base: folder or Hub id of the model to which an adapter is added.
      progress: called as progress(what, done, total) with bytes.

    Raises:
      CheckpointError: the source cannot be read, the destination not written, or the
        logits differ.
      ValueError: the format, the dtype or the part is unknown.
    """
    if format not in FORMATS:
        *others, last = FORMATS
        known = f"{', '.join(others)} or {last}"
        raise ValueError(f"format must be {known}, but is {format!r}.")
    form = FORMATS[format]
    check_part(part)
    form.check(destination, dtype, overwrite=overwrite, verify=verify)
    start = time.perf_counter()
    place, adapter = find_checkpoint(source, _released(), revision=revision, base=base)
    architecture = architecture_at(place)
    if architecture.bare is None and part != PARTS[0]:
        raise CheckpointError(
            f"{source} is a {architecture.model_class.__name__}, which has no training "
            f"checkpoints with a {part!r}. Leave part out."
        )
    layout, raw = _describe(architecture, place)
    checked = _compare_checksums(source, place, revision) if verify else 0
    if verify and not checked:
        check_verifiable(architecture, place)
    choices = Choices(form.dtype_to_read(dtype))
    model = read_model(
        architecture, place, choices, part=part, adapter=adapter, progress=progress
    )
    model = as_free(model) if free else model
    form.check_model(model)
    elsewhere = architecture.tokenizer_of(raw)
    origin = Origin(source, base, revision, elsewhere, _token_ids(raw))
    with form.open(destination, overwrite=overwrite) as new:
        form.write(model, new, origin, dtype, progress)
        sizes: dict[str, Any] = _facts(model) | {
            "dtype": form.dtype_of(model, dtype),
            "source_bytes": _size(place) + (_size(adapter.folder) if adapter else 0),
            "destination_bytes": _size(new),
        }
        del model
        found = None
        if verify and why_unverifiable(architecture, place) is None:
            found = verify_logits(place, new, dtype=sizes["dtype"], adapter=adapter)
    return Conversion(
        source=str(source),
        destination=Path(destination),
        layout=layout,
        format=format,
        seconds=time.perf_counter() - start,
        num_checked=checked,
        verification=found,
        **sizes,
    )


def _compare_checksums(
    source: str | os.PathLike, place: Path, revision: str | None
) -> int:
    """Compare a source's files with its checksums; return how many were compared."""
    is_whole = as_path(source).exists()  # else what is needed was downloaded
    if not is_whole and place.is_dir():
        locate_files(source, [CHECKSUMS], revision=revision)
    return compare_checksums(place, is_whole=is_whole)


def _released() -> list[str]:
    """Return the files that authors of any architecture released without a config."""
    bare = [one.bare for one in registered() if one.bare is not None]
    return [name for files in bare for name in files.released]


def _describe(architecture: Architecture, place: Path) -> tuple[str, dict[str, Any]]:
    """Return the layout of a checkpoint and its config.json."""
    if not has_settings(place) and architecture.bare is not None:
        return architecture.bare.layout, {}
    raw, where = settings_at(place)
    _, layout = architecture.read(raw, where)
    if is_gguf(place):
        return "gguf", raw
    return "orbax" if is_orbax(place) else layout, raw


def _token_ids(raw: dict[str, Any]) -> dict[str, Any]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: raw[name] for name in names if name in raw}


def _facts(model: StackedModel) -> dict[str, Any]:
    arrays = parameters_of(model).values()
    return {
        "num_layers": model.config.num_layers,
        "num_parameters": sum(array.size for array in arrays),
    }


def _size(place: Path) -> int:
    files = [place] if place.is_file() else place.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())
