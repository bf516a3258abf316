import dataclasses
import json
import sys
from pathlib import Path

import pytest
from PIL import Image
from reports import made_up

from jmamba.report import write_text
from jmamba.report.folder import check_directory
from jmamba.report.text.plates import TEXT_PLATES

FEW = dataclasses.replace(made_up("ab", 1, matrices=False), jacobian=None)


@pytest.fixture
def plates(monkeypatch):
    """Draw one picture only, to be quick."""
    few = [plate for plate in TEXT_PLATES if plate.name == "predictions"]
    quick = dataclasses.replace(write_text, plates=lambda _: few)
    monkeypatch.setattr(sys.modules[__name__], "write_text", quick)
    return few


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_failure_leaves_nothing_new(tmp_path, plates):
    def fail(explanation):
        raise RuntimeError("no ink")

    plates.append(plates[0]._replace(name="broken", draw=fail))
    with pytest.raises(RuntimeError, match="no ink"):
        write_text(FEW, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_an_earlier_report_as_it_was(tmp_path, plates):
    write_text(FEW, tmp_path)
    before = contents(tmp_path)

    def fail(explanation):
        raise RuntimeError("no ink")

    plates.append(plates[0]._replace(name="broken", draw=fail))
    with pytest.raises(RuntimeError, match="no ink"):
        write_text(dataclasses.replace(FEW, text="other"), tmp_path)
    assert contents(tmp_path) == before


def test_earlier_report_is_replaced_and_other_files_stay(tmp_path, plates):
    plates.append(plates[0]._replace(name="drivers"))
    write_text(FEW, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    plates.pop()
    write_text(dataclasses.replace(FEW, model="another"), tmp_path)
    names = set(contents(tmp_path))
    assert "drivers.png" not in names  # of the earlier report only
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert "another" in (tmp_path / "index.html").read_text()
    assert not any(name.startswith(".") for name in names)


def test_foreign_folder_is_refused(tmp_path, plates):
    (tmp_path / "summary.json").write_text('{"made_by": "somebody", "files": ["a"]}')
    with pytest.raises(ValueError, match="--overwrite"):
        write_text(FEW, tmp_path)
    assert set(contents(tmp_path)) == {"summary.json"}
    (tmp_path / "summary.json").unlink()
    (tmp_path / "thesis.tex").write_text("mine")
    write_text(FEW, tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_summary_cannot_name_files_to_remove(tmp_path, plates):
    outside = tmp_path / "outside.txt"
    outside.write_text("keep")
    out = tmp_path / "out"
    out.mkdir()
    text = '{"made_by": "jmamba explain", "files": ["../outside.txt", "", 3]}'
    (out / "summary.json").write_text(text)
    write_text(FEW, out)
    assert outside.read_text() == "keep"


def test_a_picture_that_is_not_ours_stays_though_a_summary_lists_it(tmp_path, plates):
    plates.append(plates[0]._replace(name="drivers"))
    page = write_text(FEW, tmp_path / "out")
    mine, ours = page.parent / "mine.png", page.parent / "drivers.png"
    Image.new("RGB", (2, 2)).save(mine)
    summary = json.loads((page.parent / "summary.json").read_text())
    summary["files"].append(mine.name)
    (page.parent / "summary.json").write_text(json.dumps(summary))
    assert ours.exists()
    plates.pop()
    write_text(FEW, page.parent)
    assert mine.exists() and not ours.exists()


def test_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        check_directory(tmp_path / "file")
    with pytest.raises(ValueError, match="not a writable folder"):
        check_directory(tmp_path / "file" / "below")


def test_unwritable_folder_is_refused(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(ValueError, match=r"Cannot write to .*--out"):
        check_directory(tmp_path / "out")


def test_folder_that_cannot_be_made_is_refused(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(ValueError, match=r"Permission denied.*--out"):
        write_text(FEW, tmp_path / "out")
