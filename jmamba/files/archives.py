"""The zip archives that torch.save writes: checked before anything is unpacked."""

import mmap
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

from jmamba.files.errors import CheckpointError
from jmamba.files.untrusted import check_regular, reading

MAGIC = b"PK\x03\x04"
"""What an archive begins with; files older than torch 1.6 are none."""

_ALLOCATES = b"bytearray"
"""Of what PyTorch lets a file call, what makes memory of a number alone."""

_CHUNK = 1 << 22


def is_archive(file: Path) -> bool:
    """Say whether a file begins as a zip archive does."""
    with file.open("rb") as opened:
        return opened.read(len(MAGIC)) == MAGIC


def check_torch_file(file: Path) -> None:
    """Raise unless a file of torch.save can be read without harm.

    Nothing is looked at twice as long as the file does not change.

    Raises:
      CheckpointError: it is no regular file; an archive is compressed, damaged or
        unpacks to more than its own size; or it asks for memory that it does not fill.
    """
    check_regular(file)
    stat = file.stat()
    _check_content(file, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _check_content(file: Path, *version: int) -> None:
    """Check what a file holds, once for each of its versions."""
    with reading(file, "cut short or no PyTorch file"):
        if not is_archive(file):
            _check_pickle(file, 0, file.stat().st_size)
            return
        with zipfile.ZipFile(file) as archive:
            _check_sizes(file, archive.infolist())
            _check_sums(file, archive)


def _check_sizes(file: Path, entries: list[zipfile.ZipInfo]) -> None:
    packed = [e.filename for e in entries if e.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise CheckpointError(
            f"{file} is a compressed archive, which torch.save does not write and "
            "which may unpack to any size; save the tensors again with torch.save."
        )
    total, size = sum(e.file_size for e in entries), file.stat().st_size
    if total > size:
        raise CheckpointError(
            f"{file} has {size:,} bytes but names {total:,} of them: its parts "
            "overlap, as in an attack on the memory of whoever opens it."
        )


def _check_sums(file: Path, archive: zipfile.ZipFile) -> None:
    """Compare the checksums of all entries, where torch.save wrote them."""
    has_sums = any(entry.CRC for entry in archive.infolist())
    for entry in archive.infolist():
        with archive.open(entry) as opened:
            if not has_sums:
                opened._expected_crc = None  # type: ignore[attr-defined]
            while chunk := opened.read(_CHUNK):
                _check_chunk(file, chunk, entry.filename)


def _check_chunk(file: Path, chunk: bytes, name: str) -> None:
    if name.endswith(".pkl") and _ALLOCATES in chunk:
        raise _refuse(file)


def _check_pickle(file: Path, start: int, stop: int) -> None:
    if stop == start:
        raise CheckpointError(f"{file} is cut short or no PyTorch file: it is empty.")
    with (
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        if content.find(_ALLOCATES, start, stop) >= 0:
            raise _refuse(file)


def _refuse(file: Path) -> CheckpointError:
    return CheckpointError(
        f"{file} holds more than tensors, perhaps code; nothing of it was run. "
        "(It asks for a bytearray.) Ask its author for a safetensors file."
    )
