"""Compiled programs, kept between runs of the command line."""

import hashlib
import os
import platform
from pathlib import Path

import jax
import platformdirs
from jaxlib import version as jaxlib

LARGEST_CACHE = 512 * 1024**2
"""Bytes kept at most; those that were not used for longest go first."""


LEAST_SECONDS = 0.05
"""What compiling took at least of programs that are kept."""


def keep_programs() -> None:
    """Let JAX find the programs that an earlier run compiled.

    JAX's own switches come first: JAX_COMPILATION_CACHE_DIR, the place (empty for
    none), and JAX_ENABLE_COMPILATION_CACHE.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or not _are_read_again():
        return
    place = programs_folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # nothing can be kept here
    if os.access(place, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(place))
        jax.config.update("jax_compilation_cache_max_size", LARGEST_CACHE)
        seconds = "jax_persistent_cache_min_compile_time_secs"
        jax.config.update(seconds, LEAST_SECONDS)


def programs_folder() -> Path:
    """Return where programs of this machine are kept, whether it is there or not.

    A home may be shared by processors of which some lack instructions of others, so
    each kind has a folder of its own.
    """
    kind = hashlib.sha256(_instructions().encode()).hexdigest()[:12]
    return Path(platformdirs.user_cache_dir("jmamba")) / "programs" / kind


def _instructions() -> str:
    """Return what tells one kind of processor from another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:  # no Linux
        lines = []
    known = next((x for x in lines if x.startswith(("flags", "Features"))), "")
    return " ".join((platform.machine(), platform.processor(), known))


def _are_read_again() -> bool:
    """Return whether this jaxlib reads back what it wrote: some crash on macOS."""
    version = tuple(int(part) for part in jaxlib.__version__.split(".")[:2])
    return platform.system() != "Darwin" or version >= (0, 10)
