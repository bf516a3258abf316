"""Command lines that cannot work are refused before anything is loaded or written."""

import os
import shlex
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from jmamba.cli import _usable, app

LONG = "x" * 5000
TEXTS = [["explain", "text"], ["dynamics", "text"], ["generate", "text"]]
WRITERS = [*TEXTS[:2], ["reproduce", "count-in-row"], ["train", "here.txt"]]


def each(commands, *options) -> list[list[str]]:
    return [[*command, *map(str, options)] for command in commands]


REFUSED = [
    *each(TEXTS, "--dtype", "int8"),
    *each(TEXTS, "--dtype", "nonsense"),
    *each(TEXTS, "--revision", "main"),
    *each([one[:1] for one in TEXTS], "--file", "missing.txt"),
    *each([one[:1] for one in TEXTS], "--file", "."),
    *each([one[:1] for one in TEXTS], "--file", "pipe"),
    *each([one[:1] for one in TEXTS], "--file", "~nobody-of-this-name/x"),
    *each([one[:1] for one in TEXTS], "--file", LONG),
    *each([one[:1] for one in TEXTS]),
    *each(WRITERS, "--out", "~nobody-of-this-name/x"),
    *each(WRITERS, "--out", LONG),
    *each(WRITERS, "--out", "/dev/null/x"),
    *each(WRITERS, "--out", "/proc/x"),
    *each(WRITERS, "--out", "here.txt"),
    *each(TEXTS[2:], "--max-new-tokens", 10**30),
    *each(TEXTS[2:], "--max-new-tokens", 0),
    *each(TEXTS[2:], "--max-new-tokens", "nan"),
    *each(TEXTS[2:], "--seed", 10**30),
    *each(TEXTS[2:], "--seed", -1),
    *each(TEXTS[2:], "--temperature", "nan"),
    *each(TEXTS[2:], "--temperature", "inf"),
    *each(TEXTS[2:], "--temperature", -1),
    *each(TEXTS[2:], "--temperature", 1, "--top-k", 0),
    *each(TEXTS[2:], "--temperature", 1, "--top-p", "nan"),
    *each(TEXTS[2:], "--repetition-penalty", "inf"),
    *each(TEXTS[:1], "--top", 0),
    *each(TEXTS[:1], "--method", "nonsense"),
    *each(TEXTS[:1], "--layers", "1,x"),
    *each(TEXTS[1:2], "--exponents", 10**30),
    ["explain", "missing.png"],
    ["explain", "--image", "~nobody-of-this-name/x.png"],
    ["explain", "--image", LONG],
    ["convert", "no/such/model", "out"],
    ["convert", "~nobody-of-this-name/x", "out"],
    ["convert", ".", "out", "--dtype", "int8"],
    ["convert", ".", LONG],
    ["reproduce", "nonsense"],
    *each(WRITERS[2:3], "--size", "huge"),
    *each(WRITERS[2:3], "--set", "seeds=[]"),
    *each(WRITERS[2:3], "--set", "nonsense=1"),
    *each(WRITERS[2:3], "--set", "steps=1e999"),
    *each(WRITERS[2:3], "--set", "steps=" + "9" * 5000),
    ["train", "missing.txt"],
    ["train", "."],
    ["train", "pipe"],
    ["train", "~nobody-of-this-name/x"],
]


@pytest.fixture(autouse=True)
def nothing_loads(monkeypatch, tmp_path):
    """Fail where a model would be loaded, and stand where little is."""

    def fail(*args, **kwargs):
        pytest.fail("a model was loaded")

    monkeypatch.setattr("jmamba.embedded.text.load_embedded", fail)
    monkeypatch.setattr("jmamba.embedded.images.load_embedded_vim", fail)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.txt").write_text("the cat sat on the mat. " * 400)
    os.mkfifo(tmp_path / "pipe")


@pytest.mark.parametrize("args", REFUSED, ids=lambda args: " ".join(args)[:60])
def test_what_cannot_work_is_refused_at_once(args, tmp_path):
    before = sorted(tmp_path.iterdir())
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 2, result.output + repr(result.exception)
    message = result.stderr.strip()
    assert message and "\n\n" not in message and "Traceback" not in result.output
    assert "Errno" not in message and "Error:" not in message
    assert sorted(tmp_path.iterdir()) == before


def test_closed_standard_input_is_said():
    command = [sys.executable, "-m", "jmamba", "generate", "-"]
    shell = ["sh", "-c", f"exec {shlex.join(command)} <&-"]
    result = subprocess.run(shell, capture_output=True)
    assert result.returncode == 2
    message = result.stderr.decode()
    assert "Standard input is closed" in message and "Traceback" not in message


def test_terminals_of_ascii_show_what_they_can():
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    command = [sys.executable, "-m", "jmamba", "explain", "--method", "ünknown", "é"]
    result = subprocess.run(command, capture_output=True, env=environment)
    assert result.returncode == 2, result.stderr
    assert b"nknown" in result.stderr and b"Traceback" not in result.stderr
    assert result.stderr.isascii()


def test_a_stream_that_is_closed_drops_what_is_written():
    with _usable(None) as stream:
        assert stream.write("é") == 1
