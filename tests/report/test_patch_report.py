"""The patch report: numbers against edited runs, pictures, page, folder, command."""

import json
import re
from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest
from reports import assert_readable, tiny_model
from typer.testing import CliRunner

from jmamba.checkpoints import ByteTokenizer
from jmamba.cli import app
from jmamba.interventions import capture, replace, run
from jmamba.report import PatchReport, measure_patches, write_patches
from jmamba.report.folder import draw_png
from jmamba.report.patch.page import patch_page
from jmamba.report.patch.plates import PATCH_PLATES

CLEAN, CORRUPTED = "<b>é", "<i>é"
RUN = CliRunner()


@cache
def report() -> PatchReport:
    return measure_patches(
        *(tiny_model(), ByteTokenizer(), CLEAN, CORRUPTED),
        answer="x",
        instead_of="y",
    )


def test_report_holds_edited_runs():
    found, model = report(), tiny_model()
    clean, corrupted = (jnp.array([list(x.encode())]) for x in (CLEAN, CORRUPTED))
    kept = capture(model, clean, "residual_out")["residual_out"]

    def read(logits):
        return float(logits[0, -1, ord("x")] - logits[0, -1, ord("y")])

    goal, base = (read(model(tokens).logits) for tokens in (clean, corrupted))
    for layer, token in ((0, 1), (1, 4), (2, 2)):
        edit = replace("residual_out", kept[layer], layers=layer, positions=token)
        share = (read(run(model, corrupted, edit).logits) - base) / (goal - base)
        np.testing.assert_allclose(found.recovered[layer, token], share, atol=2e-5)
    np.testing.assert_allclose([found.goal, found.base], [goal, base], rtol=1e-5)
    np.testing.assert_allclose(found.recovered[2, 4], 1, rtol=1e-4)
    assert found.different.tolist() == [1]
    assert (2, 4) in found.strongest(3) and "layer" in repr(found)
    assert found.asked == "x rather than y"


def test_a_place_outside_of_the_layers_is_one_row():
    found = measure_patches(
        *(tiny_model(), ByteTokenizer(), CLEAN, CORRUPTED), place="final_norm"
    )
    assert found.row_labels == ["final_norm"]
    np.testing.assert_allclose(found.recovered[0], [0, 0, 0, 0, 1], atol=1e-5)
    np.testing.assert_allclose(found.estimated, found.recovered, atol=1e-4)
    assert draw_png(PATCH_PLATES[0].draw(found)).startswith(b"\x89PNG")


@pytest.mark.parametrize("plate", PATCH_PLATES, ids=lambda plate: plate.name)
def test_every_picture_is_drawn_from_arrays_that_are_stored(plate):
    figure = plate.draw(report())
    assert_readable(figure)
    assert re.search(r"\d", plate.describe(report()))
    assert draw_png(figure).startswith(b"\x89PNG")
    assert set(plate.arrays) <= set(report().arrays())


def test_the_map_has_the_tokens_for_axes():
    figure = PATCH_PLATES[0].draw(report())
    upper, lower = figure.axes[:2]

    def shown(ax):
        return np.asarray(ax.images[0].get_array())

    np.testing.assert_allclose(shown(upper), report().recovered)
    np.testing.assert_allclose(shown(lower), report().estimated)
    labels = [text.get_text() for text in lower.get_xticklabels()]
    assert labels == ["<", "b", ">", "é"]
    top = [text.get_text() for text in upper.child_axes[0].get_xticklabels()]
    assert top == ["not i"]


def test_page_escapes_and_marks_what_differs():
    text = patch_page(report(), {plate.name: b"png" for plate in PATCH_PLATES})
    assert "&lt;<mark>b</mark>&gt;" in text and "&lt;<mark>i</mark>&gt;" in text
    assert "http" not in text.replace("http-equiv", "")


def test_command_writes_what_it_prints(embedded, tmp_path):
    args = ["--answer", "x", "--place", "blocks.1.hook_out_proj"]
    result = RUN.invoke(app, ["patch", CLEAN, CORRUPTED, *args])
    assert result.exit_code == 0, result.output
    assert "brought back" in result.stdout and "correlates by" in result.stdout
    folder = tmp_path / "jmamba-patch"
    made = json.loads((folder / "summary.json").read_text())
    assert sorted(p.name for p in folder.iterdir()) == sorted(made["files"])
    assert made["made_by"] == "jmamba patch"
    assert made["settings"]["place"] == "output"
    assert -1 <= made["attribution_patching"]["correlation"] <= 1
    with np.load(folder / "arrays.npz") as arrays:
        assert arrays["recovered"].shape == (1, 5)
    write_patches(report(), folder)  # an earlier report is replaced


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["ab", "abc"],
            "has 2 tokens and the corrupted one 3, .*'' is 0 there, 'c' is",
        ),
        (
            ["in Germany", "in France"],
            "at token 3: 'Germany' is 7 there, 'France' is 6",
        ),
        (["ab", "ab"], "Both texts are 'ab': give two that differ"),
        (["", "ab"], "text is empty"),
        (["ab", "ac", "--layers", "3"], "layers 0 to 2"),
        (["ab", "ac", "--place", "residual"], "nearest are residual_in, residual_out"),
        (["ab", "ac", "--place", "alpha"], "never made as a whole"),
        (["ab", "ac", "--answer", "two"], "is 3 tokens"),
        (["ab", "ac", "--answer", "x", "--instead-of", "x"], "give two different"),
        (["ab"], "Missing argument"),
    ],
)
def test_mistakes_exit_with_2(embedded, tmp_path, args, message):
    result = RUN.invoke(app, ["patch", *args])
    assert result.exit_code == 2, result.output
    assert re.search(message, " ".join(result.stderr.split())), result.stderr
    assert not list(tmp_path.iterdir())


def test_an_answer_of_equal_logits_is_refused():
    """A patch has nothing to bring back where both texts say the same."""
    model = tiny_model()
    table = model.embedding[...]
    model.embedding[...] = table.at[ord("x")].set(0.0)
    with pytest.raises(ValueError, match="the same logit .* nothing to bring back"):
        measure_patches(model, ByteTokenizer(), "ab", "ac", answer="x")
