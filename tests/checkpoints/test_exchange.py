import errno
import logging
import os
from pathlib import Path

import pytest

from jmamba.files import exchange
from jmamba.files.errors import CheckpointError
from jmamba.files.exchange import put_in_place, recover, write_file
from jmamba.files.folders import new_folder


def write_model(folder: Path, text: str) -> None:
    with new_folder(folder, overwrite=True) as new:
        (new / "config.json").write_text(text)
        (new / "model.safetensors").write_text(text)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


OLD = {"config.json": "old", "model.safetensors": "old", "notes.txt": "mine"}
FRESH = OLD | {"config.json": "new", "model.safetensors": "new"}


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "models" / "model"
    write_model(folder, "old")
    (folder / "notes.txt").write_text("mine")
    return folder


@pytest.mark.parametrize("way", ["swap", "renames", "entries"])
@pytest.mark.parametrize("error", [OSError(5, "I/O error"), KeyboardInterrupt()])
def test_an_error_at_any_rename_leaves_old_or_new(way, error, model, monkeypatch):
    """Old or new is whole whichever rename fails, and the next writer clears up."""
    if way == "entries":
        monkeypatch.chdir(model)
    replace, calls, broken = os.replace, 0, 0
    for broken in range(1, 30):
        calls = 0

        def break_once(source, destination, broken=broken):
            nonlocal calls
            calls += 1
            if calls == broken:
                raise error
            replace(source, destination)

        with monkeypatch.context() as patch:
            patch.setattr("jmamba.files.exchange.os.replace", break_once)
            if way != "swap":
                patch.setattr(exchange, "_swap", lambda *names: False)
            try:
                write_model(model, "new")
            except BaseException as raised:
                assert raised is error or raised.__cause__ is error
                assert contents(model) == OLD
            else:
                assert contents(model) == FRESH
                break
        assert [path.name for path in model.parent.iterdir()] == ["model"]
    assert calls < broken  # all of them were broken once


@pytest.mark.skipif(os.name != "posix", reason="renames of other systems")
def test_every_rename_may_fail_for_good(model, monkeypatch):
    """Where putting back fails, too, the next reader or writer does it."""
    calls = []

    def break_later(source, destination, replace=os.replace):
        calls.append(source)
        if len(calls) > 1:
            raise OSError(5, "I/O error")
        replace(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr(exchange, "_swap", lambda *names: False)
        patch.setattr("jmamba.files.exchange.os.replace", break_later)
        with pytest.raises(OSError):
            write_model(model, "new")
    assert not model.exists()
    recover(model)
    assert contents(model) == OLD
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_what_a_killed_writer_left_is_put_back_and_said(model, caplog):
    hidden = model.parent / ".model.a1b2c3d4.partial"
    hidden.mkdir()
    os.replace(model, hidden / "old")
    with caplog.at_level(logging.WARNING, "jmamba"):
        recover(model)
    assert contents(model) == OLD and not hidden.exists()
    assert "put back what it had moved aside" in caplog.text


def test_a_living_writer_is_left_alone(model):
    with put_in_place(model) as new:
        new.mkdir()
        recover(model)
        assert new.is_dir()
        write_model(model, "new")  # of another writer
        assert new.is_dir() and contents(model) == FRESH
    assert contents(model) == {}


def test_other_names_are_left_alone(model):
    other = model.parent / ".model.b.a1b2c3d4.partial"
    other.mkdir()
    write_model(model, "new")
    assert other.is_dir()


def test_a_full_disk_is_said_and_keeps_the_old(model):
    with pytest.raises(CheckpointError, match="no room left on the disk"):
        with put_in_place(model) as new:
            new.mkdir()
            raise RuntimeError("x") from OSError(errno.ENOSPC, "No space left")
    assert contents(model) == OLD
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_a_link_stays_a_link(model):
    link = model.parent / "link"
    link.symlink_to(model)
    write_model(link, "new")
    assert link.is_symlink() and contents(model) == FRESH


def test_files_are_written_whole_or_not(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    write_file(file, "old")

    def fail(source, destination):
        raise OSError(5, "I/O error")

    with monkeypatch.context() as patch:
        patch.setattr("jmamba.files.exchange.os.replace", fail)
        with pytest.raises(OSError):
            write_file(file, "new")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_homes_that_are_not_there_are_said():
    with pytest.raises(CheckpointError, match="of a user who is not known here"):
        write_file("~nobody-of-this-name/a", "")
