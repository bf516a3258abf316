"""Reports in a notebook and in the browser."""

import dataclasses
import html
import webbrowser

import pytest
from reports import made_up

from jmamba.report.display import register_writer
from jmamba.report.text.explanation import Explanation
from jmamba.report.text.page import write_text
from jmamba.report.text.plates import TEXT_PLATES

FOUND = made_up("a <b>\n", 2)
FEW = [plate for plate in TEXT_PLATES if plate.name == "drivers"]


@pytest.fixture(autouse=True)
def _few_pictures():
    """Draw one picture only, to be quick."""
    register_writer(Explanation, dataclasses.replace(write_text, plates=lambda _: FEW))
    yield
    register_writer(Explanation, write_text)


def test_a_notebook_gets_the_view_of_a_text():
    """No pictures, and no frame: it takes the notebook's width and theme."""
    cell = FOUND._repr_html_()
    assert cell.startswith('<div class="jmamba jmamba-cell">') and "<img" not in cell
    assert "After this text the next token is" in cell and 'class="controls"' in cell


def test_a_notebook_gets_other_reports_in_a_frame():
    plain = dataclasses.replace(write_text, plates=lambda _: FEW, fragment=None)
    register_writer(Explanation, plain)
    frame = FOUND._repr_html_()
    assert frame.startswith("<iframe srcdoc=") and frame.endswith("</iframe>")
    page = html.unescape(frame.split('"')[1])
    assert page.startswith("<!doctype html>") and "data:image/png;base64," in page


def test_show_writes_the_report_and_opens_it(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    page = FOUND.show(tmp_path / "out")
    assert page == tmp_path / "out" / "index.html" and opened == [page.as_uri()]
    other = FOUND.show()
    assert other.is_file() and other.parent != page.parent


def test_a_report_is_one_line_in_a_terminal():
    text = repr(FOUND)
    assert "\n" not in text and len(text) < 300
    assert "'a <b>\\n'" in text and "next token $ (90.0 %)" in text and "bits" in text
