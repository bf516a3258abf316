"""Programs that the command line keeps between its runs."""

import os
import subprocess
import sys

import pytest
from jaxlib import version as jaxlib

from jmamba.commands import programs

PROGRAM = """
import sys
from jmamba.commands.programs import keep_programs
keep_programs()
import jax, jax.numpy as jnp
print(jax.config.jax_compilation_cache_dir)
jax.jit(lambda x: sum(jnp.sin(x + i) @ x for i in range(30)))(jnp.ones((8, 8)))
"""


def run(home, **changes):
    """Return where programs are kept, and how many there are then."""
    settings = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    settings |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    settings |= {"JAX_PLATFORMS": "cpu", **changes}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=settings, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip(), len([*home.rglob("jit__lambda*-cache")])


def test_programs_are_found_again_unless_jax_is_told_otherwise(tmp_path):
    place, count = run(tmp_path)
    assert place.startswith(str(tmp_path / "cache" / "jmamba" / "programs"))
    assert count == 1
    assert run(tmp_path) == (place, count)  # nothing is compiled twice
    assert run(tmp_path, JAX_COMPILATION_CACHE_DIR="") == ("", count)


@pytest.mark.skipif(os.name == "nt", reason="files are no folders elsewhere, either")
def test_a_place_that_cannot_be_written_keeps_nothing(tmp_path):
    (tmp_path / "cache").write_text("no folder")
    assert run(tmp_path) == ("None", 0)


def test_processors_have_folders_of_their_own(monkeypatch):
    here = programs.programs_folder()
    monkeypatch.setattr(programs.platform, "machine", lambda: "another")
    assert programs.programs_folder() != here
    assert programs.programs_folder().parent == here.parent


def test_programs_that_would_crash_are_not_kept(monkeypatch):
    monkeypatch.setattr(programs.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(jaxlib, "__version__", "0.9.2")
    assert not programs._are_read_again()
    monkeypatch.setattr(jaxlib, "__version__", "0.10.0")
    assert programs._are_read_again()
