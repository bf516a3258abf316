"""Files of torch.save: checked before anything in them is unpacked or run."""

import zipfile
from collections.abc import Iterable
from functools import lru_cache
from io import BufferedIOBase
from pathlib import Path
from typing import IO

from jmamba.files.errors import CheckpointError
from jmamba.files.untrusted import check_regular, reading

MAGIC = b"PK\x03\x04"
"""What a zip archive begins with; files older than torch 1.6 are none."""

_ALLOCATES = b"bytearray"
"""Of what PyTorch lets a file call, what fills memory of a number alone."""

_CHUNK = 1 << 22


def is_archive(file: Path) -> bool:
    """Say whether a file begins as a zip archive does."""
    with file.open("rb") as opened:
        return opened.read(len(MAGIC)) == MAGIC


def check_torch_file(file: Path) -> None:
    """Raise unless a file of torch.save is whole and can be read without harm.

    It is looked at once, as long as it does not change.

    Raises:
      CheckpointError: it is no regular file; an archive is compressed, its parts
        overlap or differ from their checksums; or it asks for memory by a number.
    """
    check_regular(file)
    stat = file.stat()
    _check_content(file, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _check_content(file: Path, *version: int) -> None:
    """Check what a file holds; `version` tells when it was written."""
    with reading(file, "is cut short or no PyTorch file"):
        if not is_archive(file):
            with file.open("rb") as opened:
                _check_calls(file, opened)
            return
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_sizes(file, entries)
            has_sums = any(entry.CRC for entry in entries)  # torch can leave them out
            for entry in entries:
                if has_sums:
                    with archive.open(entry) as opened:  # compares at the end
                        _check_calls(file, opened, entry.filename)


def _check_sizes(file: Path, entries: list[zipfile.ZipInfo]) -> None:
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(
            f"{file} is a compressed archive, which torch.save does not write and "
            "which may unpack to any size; save the tensors again with torch.save."
        )
    total, size = sum(entry.file_size for entry in entries), file.stat().st_size
    if total > size:
        raise CheckpointError(
            f"{file} has {size:,} bytes and says that its parts have {total:,}, as in "
            "an attack on the memory of whoever opens it; save it again."
        )


def _check_calls(
    file: Path, opened: BufferedIOBase | IO[bytes], name: str = ".pkl"
) -> None:
    """Read all of a part, and refuse a pickle that makes memory of a number."""
    chunks: Iterable[bytes] = iter(lambda: opened.read(_CHUNK), b"")
    end = b""
    for chunk in chunks:
        if name.endswith(".pkl") and _ALLOCATES in end + chunk:
            raise CheckpointError(
                f"{file} holds more than tensors, perhaps code; nothing of it was run. "
                "(It asks for a bytearray.) Ask its author for a safetensors file."
            )
        end = chunk[-len(_ALLOCATES) :]
