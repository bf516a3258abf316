"""Reading what others wrote: any mistake in it becomes one error, and nothing waits.

A reader looks with `check_regular` before it opens a file, and does what may fail
inside of `reading`, which turns whatever a library raises into a `FileError`.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jmamba.files.errors import CheckpointError, FileError

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
_PANIC = "PanicException"  # of Rust libraries, whose class is no Exception and private


@contextmanager
def reading(
    file: str | os.PathLike,
    what: str,
    advice: str = "copy or download it again",
    *,
    error_class: type[FileError] = CheckpointError,
) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one error that names it.

    Errors that are a `FileError` already say more and pass.

    Args:
      file: what is read.
      what: is wrong with it, after its name.
      advice: what to do.
      error_class: of the error.

    Raises:
      FileError: anything went wrong, recursion and lack of memory too.

    Examples:
      >>> with reading("a.json", "is no valid JSON", "restore it"):
      ...     [][0]
      Traceback (most recent call last):
      jmamba.files.errors.CheckpointError: a.json is no valid JSON (list index out of \
range); restore it.
    """
    try:
        yield
    except FileError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise  # Ctrl-C
        message = f"{file} {what} ({first_line(error)}); {advice}."
        raise error_class(message) from error


def first_line(error: BaseException) -> str:
    """Return what an error says in one line that is not too long.

    Examples:
      >>> first_line(ValueError("cut short\\nat byte 3")), first_line(EOFError())
      ('cut short', 'EOFError')
    """
    line = (str(error).strip().splitlines() or [""])[0].strip().rstrip(".")
    line = line or type(error).__name__
    return line if len(line) <= 300 else f"{line[:300]} ..."


def check_regular(
    file: str | os.PathLike, *, error_class: type[FileError] = CheckpointError
) -> None:
    """Raise unless a path is that of a regular file: others may never end.

    Args:
      file: the path; links are followed.
      error_class: of the error.

    Raises:
      FileError: there is no such file, or it is a pipe, a device or a folder.
    """
    try:
        mode = os.stat(file).st_mode
    except (OSError, ValueError) as error:  # ValueError: characters no path can have
        raise error_class(
            f"{brief_path(file)} cannot be opened ({reason(error)}); check the name."
        ) from error
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise error_class(
            f"{file} is {kind}, not a file that can be read as a whole; copy its "
            "content into a file first."
        )


def check_all_regular(folder: Path) -> None:
    """Raise unless a folder holds nothing but regular files and folders.

    Raises:
      CheckpointError: it holds a pipe, a device or a dangling link.
    """
    for parent, _, names in os.walk(folder):
        for name in names:
            check_regular(Path(parent, name))


def as_path(
    given: str | os.PathLike, *, error_class: type[FileError] = CheckpointError
) -> Path:
    """Return a path that a user gave, ~ being the home folder.

    Raises:
      FileError: no file can have that name.

    Examples:
      >>> as_path("~someone-else/model")
      Traceback (most recent call last):
      jmamba.files.errors.CheckpointError: '~someone-else/model' names the home folder \
of a user who is not known here; give the whole path.
    """
    try:
        path = Path(given).expanduser()
    except RuntimeError as error:
        raise error_class(
            f"{brief_path(given)!r} names the home folder of a user who is not known "
            "here; give the whole path."
        ) from error
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass  # whoever needs it says so
    except (OSError, ValueError) as error:
        raise error_class(
            f"{brief_path(given)!r} cannot be opened ({reason(error)}); check the name."
        ) from error
    return path


def reason(error: Exception) -> str:
    """Return why a path cannot be opened, without the path."""
    return (getattr(error, "strerror", None) or first_line(error)).lower()


def brief_path(given: str | os.PathLike) -> str:
    """Return a path for a message, long ones without their middle."""
    text = os.fsdecode(given)
    return text if len(text) <= 200 else f"{text[:90]} ... {text[-90:]}"
