"""How much memory something takes, at most, beside what was there before."""

import resource
from pathlib import Path

_PROCESS = Path("/proc/self")


def forget_peak() -> None:
    """Let the peak begin at what the process holds now, where the system can."""
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        pass


def held_bytes() -> int:
    """Return the bytes that the process holds now; its peak where that is unknown."""
    return _status("VmRSS") or whole_peak_bytes()


def peak_bytes() -> int:
    """Return the bytes that the process held at most since its peak was forgotten."""
    return _status("VmHWM") or whole_peak_bytes()


def whole_peak_bytes() -> int:
    """Return the bytes that the process held at most since it began."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(name: str) -> int:
    try:
        lines = (_PROCESS / "status").read_text().splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) * 1024 if found else 0
