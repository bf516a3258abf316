"""Whatever write fails, what was there stays, and nothing else does.

Really full disks are a program, `tests/faults/full_disk.py`.
"""

import errno
import importlib
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import jax.numpy as jnp
import pytest
from flax import nnx

from jmamba import MambaConfig, MambaLM
from jmamba.checkpoints import convert, save_orbax
from jmamba.evaluation.records import RecordFile
from jmamba.files.errors import FileError
from jmamba.files.exchange import room_for
from jmamba.training.metrics import MetricsLog
from jmamba.training.states import TrainingStates

CONFIG = MambaConfig(vocab_size=16, d_model=8, num_layers=2, d_state=2)
WRITING = ["io.open", "os.mkdir", "os.link", "os.sendfile", "os.replace"]
WRITING += ["safetensors.numpy.save_file"]
"""What files, folders and names are made by."""

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(scope="module")
def model():
    return MambaLM(CONFIG, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def source(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "model"
    model.save_pretrained(folder, tokenizer="bytes")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


SAVERS = {
    "hf": lambda model, source, out: model.save_pretrained(
        out, overwrite=True, tokenizer="bytes", shard_bytes=2000
    ),
    "orbax": lambda model, source, out: save_orbax(model, out, overwrite=True),
    "convert": lambda model, source, out: convert(
        source, out, format="hf", overwrite=True
    ),
}


class FailingOnce:
    """Counts calls of all that writes, and lets one of them fail."""

    def __init__(self, number: int, patch: pytest.MonkeyPatch):
        self.number, self.calls = number, 0
        for name in WRITING:
            module, _, function = name.rpartition(".")
            original = getattr(importlib.import_module(module), function)
            patch.setattr(name, self._watch(original))

    def _watch(self, function):
        def watched(*args, **options):
            mode = args[1] if len(args) > 1 else options.get("mode", "r")
            if function.__name__ != "open" or {*str(mode)} & {*"wax+"}:
                self.calls += 1
                if self.calls == self.number:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
            return function(*args, **options)

        return watched


@pytest.mark.parametrize("kind", ["hf", "convert"])
def test_an_error_at_any_write_keeps_the_old(kind, model, source, tmp_path):
    out = tmp_path / "out"
    SAVERS[kind](model, source, out)
    (out / "notes.txt").write_text("mine")
    (out / "config.json").write_text((out / "config.json").read_text() + "\n")
    before, number = contents(out), 0
    for number in range(1, 200):
        with pytest.MonkeyPatch.context() as patch:
            failing = FailingOnce(number, patch)
            try:
                SAVERS[kind](model, source, out)
            except (OSError, FileError):
                assert contents(out) == before
            else:
                if failing.calls < number:
                    break
                before = contents(out)  # it did without
        assert [p.name for p in tmp_path.iterdir() if p.name[0] == "."] == []
    assert number >= 10


@contextmanager
def files_of_at_most(size: int):
    """Let files be no larger than that, for whatever writes them."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("kind", SAVERS)
def test_a_file_that_finds_no_room_is_said_and_keeps_the_old(
    kind, model, source, tmp_path
):
    out = tmp_path / "out"
    SAVERS[kind](model, source, out)
    before = contents(out)
    sizes = sorted({len(content) for content in before.values()})
    for size in sizes[:: max(1, len(sizes) // 4)]:
        with files_of_at_most(size // 2):  # Orbax's differ by bytes from time to time
            with pytest.raises(FileError, match="no room left on the disk for") as said:
                SAVERS[kind](model, source, out)
        assert "\n" not in str(said.value)
        assert contents(out) == before
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_state_that_finds_no_room_is_said_and_keeps_the_others(tmp_path):
    state = {"weights": jnp.arange(12.0), "step": jnp.zeros((), jnp.int32)}
    settings = {"steps": 9}

    def save(step: int) -> None:
        states = TrainingStates(tmp_path / "out", settings, save_every=1)
        try:
            states.save(state, step, last=False)
        finally:
            states.close()

    save(1)
    before = contents(tmp_path / "out")
    for size in (0, 100):
        with files_of_at_most(size), pytest.raises(FileError, match="no room left"):
            save(2)
        assert contents(tmp_path / "out") == before
    save(2)
    states = TrainingStates(tmp_path / "out", settings, save_every=1)
    assert states.restore(state)["weights"].tolist() == state["weights"].tolist()
    assert states.saved == 2
    states.close()


def test_records_and_losses_that_find_no_room_are_said_and_kept(tmp_path):
    records = RecordFile(tmp_path / "records.jsonl", {})
    records.append("lrp", ["a"], {"area": [1.5]})
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(1, loss=5.0)
    before = contents(tmp_path)
    for size in (0, len(before["metrics.jsonl"]) + 3):
        with files_of_at_most(size):
            with pytest.raises(FileError, match="records that were there before are k"):
                records.append("lrp", ["b"], {"area": [2.5]})
            with pytest.raises(
                FileError, match="metrics.jsonl; earlier lines are kept"
            ):
                log.append(2, loss=4.0)
    log.close()
    there = contents(tmp_path)
    assert there["records.jsonl"] == before["records.jsonl"]
    assert there["metrics.jsonl"].startswith(before["metrics.jsonl"])


def test_what_says_more_already_passes():
    error = FileError("said")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileError, match="^said$"), room_for("a"):
        raise error
