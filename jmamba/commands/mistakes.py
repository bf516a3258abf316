"""What becomes of a command's errors: one paragraph and an exit code."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dis import opmap
from types import TracebackType
from typing import Any

import typer

from jmamba.commands.signals import (
    INTERRUPTED,
    TERMINATED,
    Terminated,
    catch_termination,
)

UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # type: ignore[assignment]
"""What typer raises of options; it is click's, or a copy of its own."""

MISTAKES = (ValueError, ArithmeticError, OSError, MemoryError, UsageError)
"""What a user's mistake raises, beside a `TypeError` of ours."""


@contextmanager
def exit_codes(*, debug: bool = False) -> Iterator[None]:
    """Let a user's mistake exit with 2, Ctrl-C with 130 and SIGTERM with 143.

    Warnings become notes.

    Args:
      debug: whether errors pass as they are.
    """
    try:
        with warnings.catch_warnings(), catch_termination():
            warnings.showwarning = _notes()
            yield
    except KeyboardInterrupt as error:
        _complain(f"Interrupted; {f'{error}' or 'nothing half-written is left.'}")
        is_ended = isinstance(error, Terminated)
        raise typer.Exit(TERMINATED if is_ended else INTERRUPTED) from error
    except typer.Exit:
        raise
    except Exception as error:
        # `| head` is no mistake
        if debug or isinstance(error, BrokenPipeError) or not is_mistake(error):
            raise
        _complain(_explain(error))
        raise typer.Exit(2) from error


def is_mistake(error: Exception) -> bool:
    """Say whether an error is a user's mistake, not one of this program.

    A `TypeError` is, if a `raise` of this package made it; an operation that met what
    it cannot take is a bug.

    Examples:
      >>> try:
      ...     len(3)
      ... except TypeError as error:
      ...     is_mistake(error)
      False
    """
    if isinstance(error, TypeError):
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        return place is not None and _is_raised_by_us(place)
    is_full = isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    return is_full or isinstance(error, MISTAKES)


def _is_raised_by_us(place: TracebackType) -> bool:
    frame = place.tb_frame
    is_ours = frame.f_globals.get("__name__", "").startswith("jmamba")
    return is_ours and frame.f_code.co_code[place.tb_lasti] == opmap["RAISE_VARARGS"]


def _explain(error: Exception) -> str:
    """Return what an error says, in one paragraph."""
    if isinstance(error, UsageError):
        ctx = getattr(error, "ctx", None)
        command = "jmamba" if ctx is None else ctx.command_path
        says = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
        return f"{says} See {command} --help."
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror}."
    if isinstance(error, RuntimeError):
        return f"The memory does not suffice: {str(error).splitlines()[0]}"
    return f"{error}" or type(error).__name__


def _complain(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def _notes() -> Callable[..., None]:
    """Return what shows a warning as a note, each once and without its line of code."""
    said: set[str] = set()

    def show(message: Warning | str, *place: Any) -> None:
        if str(message) not in said:
            said.add(str(message))
            _complain(f"Note: {message}")

    return show
