"""Putting what is finished in the place of what was there: old or new, always whole.

What is written lies in a hidden folder beside its destination, which its writer keeps
locked, and takes the destination's name at the end. A writer that was killed leaves an
unlocked one, which the next one puts back or clears away.
"""

import ctypes
import errno
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from jmamba.files.errors import CheckpointError, FileError
from jmamba.files.untrusted import as_path

LOCK, NEW, OLD = "lock", "new", "old"
"""What lies in a hidden folder: a lock, what is written, a whole destination aside."""

ENTRIES, CLEARED = "entries", "cleared"
"""Entries of a destination that were moved aside: some of them, all of them."""

_LOGGER = logging.getLogger("jmamba")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CURRENT_FOLDER, _EXCHANGE, _SWAP = -100, 2, 2  # AT_FDCWD, RENAME_EXCHANGE, RENAME_SWAP


@contextmanager
def put_in_place(destination: str | os.PathLike) -> Iterator[Path]:
    """Give a path to write a file or folder to, which takes the destination's name.

    If anything goes wrong, or the user interrupts, the destination is as it was.

    Raises:
      CheckpointError: the disk is full, or the destination cannot be written.
    """
    destination = Path(os.path.realpath(as_path(destination)))
    try:
        recover(destination)
        destination.parent.mkdir(parents=True, exist_ok=True)
        hidden, lock = _make_hidden(destination)
    except OSError as error:
        raise CheckpointError(
            f"Cannot write to {destination}: {error.strerror}. Name another place."
        ) from error
    try:
        with room_for(destination):
            yield hidden / NEW
            _replace(destination, hidden)
    finally:
        with lock:
            _undo(destination, hidden, say=False)
        shutil.rmtree(hidden, ignore_errors=True)  # Windows keeps an open lock


@contextmanager
def room_for(
    path: str | os.PathLike, kept: str = "what was there before is as it was"
) -> Iterator[None]:
    """Say of a full disk what was being written, and what is kept.

    Args:
      path: what is written.
      kept: the end of a sentence.

    Raises:
      CheckpointError: the disk is full; other errors pass.

    Examples:
      >>> with room_for("a.txt", "all is well"):
      ...     raise OSError(errno.ENOSPC, "No space left on device")
      Traceback (most recent call last):
      jmamba.files.errors.CheckpointError: There is no room left on the disk for \
a.txt; all is well. Make room, or name another place.
    """
    try:
        yield
    except FileError:
        raise  # it says more already
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise CheckpointError(
            f"There is no room left on the disk for {path}; {kept}. Make room, or name "
            "another place."
        ) from error


def is_hidden(name: str) -> bool:
    """Say whether a name is that of a hidden folder.

    Examples:
      >>> [is_hidden(name) for name in (".model.a1b2c3d4.partial", "model.partial")]
      [True, False]
    """
    return re.fullmatch(r"\..+\.[a-z0-9_]{8}\.partial", name) is not None


def write_file(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a file as a whole or not at all.

    Raises:
      CheckpointError: the disk is full, or the file cannot be written.

    Examples:
      >>> path = Path(tempfile.mkdtemp(), "a.txt")
      >>> write_file(path, "whole")
      >>> path.read_text(), len(list(path.parent.iterdir()))
      ('whole', 1)
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with put_in_place(path) as new:
        new.write_bytes(data)


def recover(destination: Path, *, say: bool = True) -> None:
    """Put back or clear away what writers of a destination left who were killed.

    Args:
      destination: what they were writing.
      say: whether to log it.
    """
    for hidden in _hidden_folders(destination):
        try:
            lock = lock_file(hidden / LOCK)
        except OSError:
            continue  # it is not ours to change
        if lock is None:
            continue  # its writer is alive
        try:
            _undo(destination, hidden, say=say)
        finally:
            lock.close()


def is_disk_full(error: BaseException | None) -> bool:
    """Say whether an error, or one that it came from, is that a disk is full.

    Examples:
      >>> is_disk_full(OSError(errno.ENOSPC, "No space left on device"))
      True
    """
    while error is not None:
        # libraries that write without Python's own files have only words for it
        if getattr(error, "errno", None) in _FULL or any(
            os.strerror(number) in str(error) for number in _FULL
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def _make_hidden(destination: Path) -> tuple[Path, IO]:
    """Make a hidden folder and lock it."""
    while True:
        name = f".{destination.name}."
        place = destination if _is_held(destination) else destination.parent
        hidden = Path(tempfile.mkdtemp(".partial", name, place))
        try:
            lock = lock_file(hidden / LOCK)
        except OSError:
            shutil.rmtree(hidden, ignore_errors=True)
            raise
        if lock is not None:  # else somebody took it for a dead writer's
            return hidden, lock


def lock_file(path: Path) -> IO | None:
    """Lock a file until it is closed or this process ends; None if it is locked.

    The file is made if need be. It stays, and says nothing.
    """
    try:
        file = path.open("ab")
    except FileNotFoundError:
        return None  # somebody cleared its folder away
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except ImportError:
        return file  # no system with such locks: writers do not wait for each other
    except OSError:
        pass
    file.close()
    return None


def _hidden_folders(destination: Path) -> list[Path]:
    start = f".{destination.name}."
    found = []
    for place in (destination.parent, destination):
        with suppress(OSError):
            found += [
                path
                for path in sorted(place.iterdir())
                if is_hidden(path.name)
                and path.name[: -len("12345678.partial")] == start
                and path.is_dir()
            ]
    return found


def _replace(destination: Path, hidden: Path) -> None:
    """Put what is new in the destination's place."""
    new = hidden / NEW
    if hidden.parent == destination:
        _replace_entries(destination, hidden)
    elif not new.is_dir() or not destination.exists():
        os.replace(new, destination)
    elif not _swap(new, destination):
        os.replace(destination, hidden / OLD)
        os.replace(new, destination)


def _replace_entries(destination: Path, hidden: Path) -> None:
    """Put new entries into a folder that has to stay itself."""
    aside, new = hidden / ENTRIES, hidden / NEW
    aside.mkdir()
    for path in list(destination.iterdir()):
        if path != hidden:
            os.replace(path, aside / path.name)
    os.replace(aside, hidden / CLEARED)
    for path in list(new.iterdir()):
        os.replace(path, destination / path.name)
    os.replace(hidden / CLEARED, hidden / OLD)


def _undo(destination: Path, hidden: Path, *, say: bool) -> None:
    """Put back what was moved aside and never replaced, and remove the rest."""
    is_put_back = False
    if (hidden / OLD).exists() and not destination.exists():
        os.replace(hidden / OLD, destination)
        is_put_back = True
    if (hidden / CLEARED).is_dir():
        for path in list(destination.iterdir()):  # of what was to be, not of what was
            if path != hidden:
                _remove(path)
        os.replace(hidden / CLEARED, hidden / ENTRIES)
    if (hidden / ENTRIES).is_dir():
        for path in list((hidden / ENTRIES).iterdir()):
            os.replace(path, destination / path.name)
        is_put_back = True
    shutil.rmtree(hidden, ignore_errors=True)
    if say:
        what = "put back what it had moved aside" if is_put_back else "cleared away"
        _LOGGER.warning(
            "A writer of %s was killed before it had finished; %s what it left in %s.",
            *(destination, what, hidden.name),
        )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_held(destination: Path) -> bool:
    """Say whether a folder has to stay itself: a disk, or one that a shell is in."""
    if not destination.is_dir():
        return False
    with suppress(OSError):
        if Path.cwd().resolve().is_relative_to(destination):
            return True
    parent = destination.parent
    return os.path.ismount(destination) or not os.access(parent, os.W_OK | os.X_OK)


def _swap(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system cannot."""
    names = os.fsencode(one), os.fsencode(other)
    library = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        failed = library.renamex_np(*names, _SWAP)  # type: ignore[union-attr]
    elif sys.platform == "linux" and hasattr(library, "renameat2"):
        failed = library.renameat2(  # type: ignore[union-attr]
            _CURRENT_FOLDER, names[0], _CURRENT_FOLDER, names[1], _EXCHANGE
        )
    else:
        return False
    return not failed  # whatever the reason, plain renames say it better
