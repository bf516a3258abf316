"""The formats that a checkpoint can be converted to."""

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from jmamba.files.checksums import write_checksums
from jmamba.files.dtypes import check_dtype, main_dtype
from jmamba.files.errors import CheckpointError
from jmamba.files.exchange import put_in_place
from jmamba.files.filling import ByteProgress
from jmamba.files.folders import (
    TOKENIZER,
    TOKENIZER_FILES,
    check_destination,
    check_writable,
    new_folder,
)
from jmamba.files.gguf_files import ENCODINGS, choose_encoding, is_gguf, require_gguf
from jmamba.files.gguf_vocabulary import copy_vocabulary, describe_vocabulary
from jmamba.files.hub import locate_files
from jmamba.files.tokenizer import BYTES, copy_tokenizer
from jmamba.files.untrusted import as_path
from jmamba.models.gguf import check_gguf, save_gguf
from jmamba.models.saving import check_parameters, write_orbax, write_safetensors
from jmamba.models.skeleton import parameters_of

_LOGGER = logging.getLogger("jmamba")

Place = str | os.PathLike


class Origin(NamedTuple):
    """Where a checkpoint that is converted has its tokenizer.

    Attributes:
      source: file, folder or Hub id of the checkpoint.
      base: that of the model that it is an adapter of, whose own comes second.
      revision: of the source.
      elsewhere: Hub id that has the tokenizer if the checkpoint has none.
      token_ids: what its config.json says of ids.
    """

    source: Place
    base: Place | None
    revision: str | None
    elsewhere: str | None
    token_ids: dict[str, Any]

    def copy_into(self, folder: Path) -> dict[str, Any]:
        """Copy the tokenizer's files into a folder; return what config.json says."""
        if is_gguf(as_path(self.source)):
            return self.token_ids | copy_vocabulary(as_path(self.source), folder)
        found = {}
        if self.base is not None:
            found = copy_tokenizer(self.base, folder, required=False)
        own = copy_tokenizer(
            self.source, folder, revision=self.revision, required=False
        )
        return self.token_ids | found | own


class WrittenFormat(NamedTuple):
    """A format that checkpoints are written in.

    Attributes:
      check: called as check(destination, dtype, overwrite=, verify=) before any work.
      check_model: raises unless a model can be written.
      open: called as open(destination, overwrite=), gives the path to write to.
      write: called as write(model, path, origin, dtype, progress).
      dtype_to_read: dtype of the model that is written, for one that was asked for.
      dtype_of: called as dtype_of(model, dtype), returns that of what was written.
    """

    check: Callable[..., None]
    check_model: Callable[[Any], object]
    open: Callable[..., AbstractContextManager[Path]]
    write: Callable[[Any, Path, Origin, Any, ByteProgress | None], None]
    dtype_to_read: Callable[[Any], Any] = lambda dtype: dtype or "auto"
    dtype_of: Callable[[Any, Any], str] = lambda model, dtype: model_dtype(model)


def model_dtype(model: Any) -> str:
    """Return the dtype that most of a model's parameters have."""
    return main_dtype(array.dtype.name for array in parameters_of(model).values())


def _check_folder(
    destination: Place, dtype: Any, *, overwrite: bool, verify: bool
) -> None:
    check_dtype(dtype)
    check_destination(destination, overwrite=overwrite)


def _folder_format(write: Callable[..., None]) -> WrittenFormat:
    """Return a format that is a folder with a config.json, given what writes it."""

    def write_all(model: Any, folder: Path, origin: Origin, dtype: Any, progress: Any):
        is_text = model.reads == "tokens"
        extra = origin.copy_into(folder) if is_text else origin.token_ids
        write(model, folder, extra, progress)
        write_checksums(folder)

    return WrittenFormat(_check_folder, check_parameters, new_folder, write_all)


def _write_hf(model: Any, folder: Path, extra: dict, progress: Any) -> None:
    write_safetensors(model, folder, extra=extra, progress=progress)


def _write_orbax(model: Any, folder: Path, extra: dict, progress: Any) -> None:
    write_orbax(model, folder, extra=extra)  # Orbax says nothing on the way


def _check_gguf_file(
    destination: Place, dtype: Any, *, overwrite: bool, verify: bool
) -> None:
    encoding = choose_encoding(dtype)
    require_gguf("Writing a GGUF file")
    if verify and (dtype is None or encoding != "f32"):
        raise ValueError(
            "verify compares logits to within rounding, which is that of f32: give the "
            "dtype f32, or leave verify out."
        )
    file = as_path(destination)
    if file.suffix != ".gguf":
        raise CheckpointError(
            f"{file} is no name of a GGUF file; give one that ends in .gguf."
        )
    if file.is_dir():
        raise CheckpointError(f"{file} is a folder; give another name.")
    if file.exists() and not overwrite:
        raise CheckpointError(
            f"{file} exists already. Choose another name, or overwrite it: "
            "overwrite=True, on the command line --overwrite."
        )
    check_writable(file)


def _write_gguf(
    model: Any, file: Path, origin: Origin, dtype: Any, progress: Any
) -> None:
    config = model.config
    with TemporaryDirectory() as folder:
        extra = origin.copy_into(Path(folder))
        tokenizer = _tokenizer_in(Path(folder), origin)
        vocabulary = describe_vocabulary(
            tokenizer,
            config.vocab_size,
            config.end_tokens,
            is_bytes=extra.get("tokenizer") == BYTES,
        )
    save_gguf(model, file, vocabulary, choose_encoding(dtype, model_dtype(model)))


def _tokenizer_in(folder: Path, origin: Origin) -> Path | None:
    """Return the tokenizer.json of a folder, or of where else it is."""
    if (folder / TOKENIZER).is_file():
        return folder / TOKENIZER
    if origin.elsewhere is None:
        return None
    try:
        return locate_files(origin.elsewhere, TOKENIZER_FILES).get(TOKENIZER)
    except CheckpointError as error:
        _LOGGER.warning("The file is written without a tokenizer: %s", error)
        return None


FORMATS = {
    "orbax": _folder_format(_write_orbax),
    "hf": _folder_format(_write_hf),
    "gguf": WrittenFormat(
        _check_gguf_file,
        check_gguf,
        lambda destination, *, overwrite: put_in_place(destination),
        _write_gguf,
        lambda dtype: "auto",
        lambda model, dtype: ENCODINGS[choose_encoding(dtype, model_dtype(model))][0],
    ),
}
"""Format -> how it is written."""
