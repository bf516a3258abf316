"""Two texts or two models beside each other."""

import json
from typing import Any

import numpy as np
import pytest
from reports import assert_readable, made_up, tiny_model
from test_page import Reader
from typer.testing import CliRunner

from jmamba.checkpoints import ByteTokenizer
from jmamba.cli import app
from jmamba.report import TextComparison, compare_texts, explain_text
from jmamba.report.compare.figures import draw_comparison
from jmamba.report.compare.page import comparison_fragment, comparison_page

MODEL, BYTES = tiny_model(2), ByteTokenizer()
FEW: dict[str, Any] = {"matrices": False, "jacobian": False}
BOTH = TextComparison(made_up("one né", 2), made_up("two", 2), ("first", "second"))


def test_each_side_is_what_it_is_alone():
    both = compare_texts(MODEL, BYTES, "ab", "ba", target="c", **FEW)
    for text, one in (("ab", both.first), ("ba", both.second)):
        alone = explain_text(MODEL, BYTES, text, target="c", **FEW)
        np.testing.assert_array_equal(one.left_out, alone.left_out)
    assert both.names == ("first text", "second text") and both.title == "Two texts"
    assert "first_left_out" in both.arrays() and "second text: " in repr(both)


def test_two_models_are_given_one_text():
    other = tiny_model(1)
    both = compare_texts(
        MODEL, BYTES, "ab", other=(other, BYTES), names=("two", "one"), **FEW
    )
    assert both.names == ("two", "one") and both.title == "One text, two models"
    assert [len(one.last_attention) for _, one in both.pairs] == [2, 1]
    assert both.model == "two and one" and both.settings["layers"] == "[0, 1] and [0]"


@pytest.mark.parametrize("second", [None, "ab"])
def test_nothing_to_compare_is_refused(second):
    with pytest.raises(ValueError, match=r"Both texts are 'ab': .*--compare-model"):
        compare_texts(MODEL, BYTES, "ab", second)


def test_the_picture_has_both_on_one_scale():
    figure = draw_comparison(BOTH)
    assert_readable(figure)
    axes = np.array(figure.axes).reshape(3, 2)
    for left, right in axes:
        of = "get_xlim" if left in axes[0] else "get_ylim"
        assert getattr(left, of)() == getattr(right, of)()
    names = [text.get_text() for text in axes[0, 0].get_yticklabels()]
    assert names == ["$", "↵"] and axes[0, 0].yaxis_inverted()  # the likeliest on top


def test_the_page_has_both_views_and_one_figure():
    read = Reader(comparison_page(BOTH, {"comparison": b""}))
    views = [a for a in read.all("section") if "jmamba-view" in a.get("class", "")]
    assert [view["aria-label"] for view in views] == ["first", "second"]
    assert len(read.all("figure")) == len(read.all("img")) == 1
    assert "first: expects" in read.all("img")[0]["alt"]
    assert comparison_fragment(BOTH).count("<script>") == 1


def test_the_command_writes_both(embedded, tmp_path):
    result = CliRunner().invoke(
        app, ["explain", "ab", "--compare", "ba", "--no-matrices", "--no-jacobian"]
    )
    assert result.exit_code == 0, result.output
    assert "first text" in result.stdout and "second text" in result.stdout
    summary = json.loads((tmp_path / "jmamba-out" / "summary.json").read_text())
    assert summary["second"]["text"] == "ba" and "comparison.png" in summary["files"]
