"""SHA256SUMS: what the files of a checkpoint were when it was written.

The format is that of sha256sum, so that `sha256sum --check SHA256SUMS` compares too.
"""

import hashlib
import re
from pathlib import Path, PurePosixPath

from jmamba.files.errors import CheckpointError, compress
from jmamba.files.folders import CHECKSUMS
from jmamba.files.untrusted import check_regular, reading

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files of a folder into it."""
    names = sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and file.name != CHECKSUMS
    )
    lines = (f"{digest(folder / name)}  {name}\n" for name in names)
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def compare_checksums(folder: Path, *, is_whole: bool = True) -> int:
    """Compare the files of a folder with its checksums; return how many were compared.

    Args:
      folder: the folder.
      is_whole: whether all files are to be there; of a repository on the Hub only what
        is needed is downloaded.

    Raises:
      CheckpointError: a file differs or is missing, or the checksums are none.
    """
    file = folder / CHECKSUMS
    if not file.exists():
        return 0
    sums = _read_checksums(file)
    missing = [name for name in sums if not (folder / name).is_file()]
    there = [name for name in sums if name not in missing]
    changed = [name for name in there if digest(folder / name) != sums[name]]
    lost = missing if is_whole else []
    lists = {"changed": compress(changed), "missing": compress(lost)}
    wrong = "; ".join(f"{what}: {names}" for what, names in lists.items() if names)
    if wrong:
        raise CheckpointError(
            f"Files in {folder} are not as its {CHECKSUMS} says ({wrong}). Copy or "
            "download them again; if you changed them yourself, delete "
            f"{CHECKSUMS}."
        )
    return len(there)


def _read_checksums(file: Path) -> dict[str, str]:
    """Return the name and the checksum of each file."""
    check_regular(file)
    with reading(file, "is no list of checksums", "delete it or restore it"):
        lines = file.read_text(encoding="utf-8").splitlines()
        found = {}
        for number, line in enumerate(lines, 1):
            match = _LINE.fullmatch(line)
            name = PurePosixPath(match[2]) if match else PurePosixPath("/")
            if not match or name.is_absolute() or ".." in name.parts:
                raise CheckpointError(
                    f"{file}: line {number} is no checksum and name of a file in this "
                    "folder; delete the file, or restore it."
                )
            found[match[2]] = match[1]
    if not found:
        raise CheckpointError(f"{file} is empty; delete it or restore it.")
    return found


def digest(file: Path) -> str:
    """Return the sha256 of a file."""
    check_regular(file)
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
