"""Which errors are a user's, and how programs end."""

import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
import typer

from jmamba.commands.mistakes import exit_codes, is_mistake
from jmamba.requests import as_array

ROOT = Path(__file__).parents[2]


def raised(call) -> Exception:
    with pytest.raises(Exception) as found:
        call()
    return found.value


def test_type_errors_that_we_raise_are_mistakes_and_bugs_are_not():
    ours = raised(lambda: as_array({"input_ids": [1]}, "tokens"))
    assert isinstance(ours, TypeError) and is_mistake(ours)
    assert not is_mistake(raised(lambda: len(3)))  # type: ignore[arg-type]
    assert not is_mistake(raised(lambda: jnp.zeros("a")))  # type: ignore[arg-type]
    assert not is_mistake(KeyError("a"))
    assert is_mistake(RuntimeError("RESOURCE_EXHAUSTED: out of memory"))
    assert not is_mistake(RuntimeError("other"))


def test_bugs_pass(capsys):
    with pytest.raises(TypeError), exit_codes():
        len(3)  # type: ignore[arg-type]
    with pytest.raises(typer.Exit) as ended, exit_codes():
        raise ValueError("said")
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err == "said\n"


STUCK = """
import os, signal, sys
sys.argv[1:] = ["source", "destination"]
import jmamba.commands.convert as command
def stuck(*args, **options):
    os.kill(os.getpid(), signal.NUMBER)
    signal.pause()
command.convert = stuck
import runpy
runpy.run_path("convert_weights.py", run_name="__main__")
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_the_script_ends_as_the_command_does(name, code):
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    done = subprocess.run(
        [sys.executable, "-c", program + STUCK.replace("NUMBER", name)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == code
    assert done.stderr.endswith("Interrupted; nothing half-written is left.\n")
    assert "Traceback" not in done.stderr
