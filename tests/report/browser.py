"""A real Chromium, and axe's rules of accessibility, where they are installed."""

import os
import shutil
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")

AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"
"""Where `npm install axe-core` here puts it; JMAMBA_AXE says where else."""


def find_chromium() -> str:
    """Return the path of a Chromium, or skip the test."""
    found = [path for name in NAMES if (path := shutil.which(name))]
    if not found:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is on PATH")
    return found[0]


def read_axe() -> str:
    """Return axe-core's script, or skip the test."""
    path = Path(os.environ.get("JMAMBA_AXE", AXE))
    if not path.is_file():
        pytest.skip(f"no axe-core: {path} is missing (npm install axe-core)")
    return path.read_text(encoding="utf-8")
