"""Folders of checkpoints: what is in them, and new ones that are never half there.

A new folder is written beside its place, then exchanged with what is there.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from jmamba.files.errors import CheckpointError
from jmamba.files.exchange import is_hidden, put_in_place, recover
from jmamba.files.json_files import encode_infinities
from jmamba.files.untrusted import as_path

GENERATION_CONFIG = "generation_config.json"
TOKENIZER = "tokenizer.json"
"""Where transformers keeps how a model generates, all ids that end a text among it."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
"""Files of a tokenizer that are read."""

TEMPLATES = "additional_chat_templates"
"""Folder of further chat templates, *.jinja."""

TEXT_FILES = (
    *TOKENIZER_FILES,
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""Files that transformers reads a tokenizer from, chat templates among them."""

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""Files of a LoRA adapter that PEFT wrote."""

CHECKSUMS = "SHA256SUMS"
"""What the files were when they were written; see `checksums`."""

PARAMETERS = "parameters"
"""Orbax's own folder."""

MODEL_FILES = (
    "config.json",
    GENERATION_CONFIG,
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model-*-of-*.bin",
    "pytorch_model.bin.index.json",
    ADAPTER_CONFIG,
    *ADAPTER_WEIGHTS,
    PARAMETERS,
    CHECKSUMS,
)
"""Patterns of what a model is written to, in any layout, or read instead of it."""


def is_of_checkpoint(name: str) -> bool:
    """Say whether a file or folder of a checkpoint is written anew with it.

    Examples:
      >>> [is_of_checkpoint(name) for name in ("model.safetensors", "notes.txt")]
      [True, False]
    """
    return any(fnmatch(name, part) for part in (*MODEL_FILES, *TEXT_FILES, TEMPLATES))


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file as transformers formats it."""
    text = json.dumps(encode_infinities(content), indent=2)
    file.write_text(text + "\n", encoding="utf-8")


@contextmanager
def new_folder(destination: str | os.PathLike, *, overwrite: bool) -> Iterator[Path]:
    """Give a folder to write into, which takes the destination's name at the end.

    Files of a destination that are no checkpoint's stay in it. If anything goes wrong,
    or the user interrupts, the destination is as it was.

    Raises:
      CheckpointError: the destination exists and may not be overwritten.
    """
    destination = as_path(destination).absolute()
    check_destination(destination, overwrite=overwrite)
    with put_in_place(destination) as folder:
        folder.mkdir()
        yield folder
        keep_others(destination, folder, is_of_checkpoint)


def keep_others(old: Path, new: Path, is_ours: Callable[[str], bool]) -> None:
    """Give a new folder what an old one holds beside what is written anew.

    Args:
      old: the folder that is replaced, if it is there.
      new: the one that takes its place.
      is_ours: says of a name whether it is written anew.
    """
    for path in old.iterdir() if old.is_dir() else ():
        is_new = (new / path.name).exists() or is_hidden(path.name)
        if is_new or is_ours(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, True, copy_function=_link)
        else:
            _link(path, new / path.name)


def _link(old: str | os.PathLike, new: str | os.PathLike) -> None:
    """Give a file a second name, or copy it where the file system has but one."""
    try:
        os.link(old, new, follow_symlinks=False)
    except OSError:
        shutil.copy2(old, new, follow_symlinks=False)


def check_destination(destination: str | os.PathLike, *, overwrite: bool) -> None:
    """Raise if a checkpoint may not be written to a folder.

    An empty folder is always taken. With `overwrite` a folder is replaced only if it
    holds a config.json, lest a mistyped path costs more than a checkpoint.

    Raises:
      CheckpointError: it may not.
    """
    destination = as_path(destination)
    try:
        recover(Path(os.path.realpath(destination)))
        there = destination.exists()
    except OSError as error:
        raise _unwritable(destination, error.strerror or str(error)) from error
    if not there:
        check_writable(destination)
        return
    if not destination.is_dir():
        raise CheckpointError(
            f"{destination} is a file; give the name of a folder to write."
        )
    check_writable(destination)
    if not any(destination.iterdir()):
        return
    if not overwrite:
        raise CheckpointError(
            f"{destination} exists already. Choose another folder, or overwrite it: "
            "overwrite=True, on the command line --overwrite."
        )
    if not (destination / "config.json").is_file():
        raise CheckpointError(
            f"{destination} is not empty and holds no checkpoint (no config.json), so "
            "it is not overwritten. Choose another folder."
        )


def check_writable(path: Path) -> None:
    """Raise unless a file or folder may be made, or made anew, where a path says.

    Raises:
      CheckpointError: the nearest folder that is there cannot be written, or is none.
    """
    nearest = path.absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        tempfile.TemporaryDirectory(dir=nearest).cleanup()  # rights do not tell all
    except OSError as error:
        why = f"{nearest} is not a writable folder ({error.strerror})"
        raise _unwritable(path, why) from error


def _unwritable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"Cannot write to {path}: {why}. Name another place.")
