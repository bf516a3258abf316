"""What Orbax says on its own when it cannot write, beside what it raises.

Its threads log the error with a traceback. Its coroutines that wait for other writes
are left in a closed event loop: they complain when a write ends, or when Python throws
them away, whenever that is.
"""

import logging
import sys
from types import CoroutineType
from typing import Any

_FOLDER = "orbax"
"""In the paths of its files."""


def silence_orbax() -> None:
    """Let Orbax raise its errors and say no more of them, from now on.

    Other complaints are heard as before.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_of_others)  # which is added once
    if not getattr(sys.unraisablehook, "is_for_others", False):
        sys.unraisablehook = _hook_for_others(sys.unraisablehook)


def _is_of_others(record: logging.LogRecord) -> bool:
    """Say whether a record is no complaint of Orbax about what it raises."""
    if record.name == "absl":
        return record.levelno < logging.ERROR or _FOLDER not in record.pathname
    said = logging.Formatter().format(record)  # with the traceback, if there is one
    return not (said.startswith(("Task", "Future")) and _FOLDER in said)


def _hook_for_others(hook: Any) -> Any:
    def show(complaint: Any) -> None:
        source, error = complaint.object, complaint.exc_value
        if isinstance(source, CoroutineType):
            is_theirs = _FOLDER in source.cr_code.co_filename
        else:  # TensorStore calls a loop back without saying who
            is_theirs = source is None and "loop is closed" in str(error)
        if not is_theirs:
            hook(complaint)

    show.is_for_others = True  # type: ignore[attr-defined]
    return show
