"""The lens report: numbers against the lens, pictures, page, folder, commands."""

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
from jmamba.interventions import TunedLens, logit_lens
from jmamba.report import LensReport, measure_lens, write_lens
from jmamba.report.folder import draw_png
from jmamba.report.lens.page import lens_page
from jmamba.report.lens.plates import LENS_PLATES

TEXT = "Dé <b>"
RUN = CliRunner()


@cache
def report() -> LensReport:
    return measure_lens(tiny_model(), ByteTokenizer(), TEXT, top=3)


def test_report_holds_the_lens():
    found, tokens = report(), jnp.array([list(TEXT.encode())])
    logits = np.asarray(logit_lens(tiny_model(), tokens)[:, 0], np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    np.testing.assert_allclose(found.last, p[:, -1, found.predictions.ids], rtol=1e-5)
    np.testing.assert_array_equal(found.reading.ids[..., 0], p.argmax(-1))
    agrees = p.argmax(-1) == p[-1].argmax(-1)
    for token, layer in enumerate(found.settled):
        assert agrees[layer:, token].all() and (
            layer == 0 or not agrees[layer - 1, token]
        )
    assert "layer" in repr(found)
    assert found.piece_labels == ["D", "é", "␣", "<", "b", ">"]


def test_layers_that_were_left_out_may_leave_nothing_settled():
    found = measure_lens(tiny_model(), ByteTokenizer(), TEXT, layers=[0], top=1)
    assert found.layers == (0,) and found.reading.rank.shape == (1, 7)
    wrong = np.flatnonzero(found.reading.rank[0] > 0)
    assert len(wrong) and np.all(found.settled[wrong] == -1)


@pytest.mark.parametrize("plate", LENS_PLATES, ids=lambda plate: plate.name)
def test_every_picture_is_drawn_from_arrays_that_are_stored(plate):
    figure = plate.draw(report())
    assert_readable(figure)
    assert re.search(r"\d", plate.describe(report()))
    assert draw_png(figure).startswith(b"\x89PNG")
    assert set(plate.arrays) <= set(report().arrays())


def test_page_escapes_and_shows_every_layer_and_token():
    text = lens_page(report(), {plate.name: b"png" for plate in LENS_PLATES})
    assert "&lt;b&gt;" in text and "<b>" not in text
    assert text.count("<tr><th>") == 2 + 3 + 3  # two heads, three layers in both
    assert "http" not in text.replace("http-equiv", "")


def test_command_writes_what_it_prints(embedded, tmp_path):
    tuned = tmp_path / "lens.safetensors"
    TunedLens(3, 16).save(tuned)
    args = ["--layers", "0,-1", "--top", "2", "--tuned", str(tuned)]
    result = RUN.invoke(app, ["lens", "cat", *args])
    assert result.exit_code == 0, result.output
    assert "bits from the model" in result.stdout and "tuned lens" in result.stdout
    page = tmp_path / "jmamba-lens" / "index.html"
    made = json.loads((page.parent / "summary.json").read_text())
    assert sorted(p.name for p in page.parent.iterdir()) == sorted(made["files"])
    assert made["made_by"] == "jmamba lens" and made["settings"]["tuned"]
    assert [one["layer"] for one in made["layers"]] == [0, 2]
    with np.load(page.parent / "arrays.npz") as arrays:
        assert arrays["lens_ids"].shape == (2, 3, 2)
    write_lens(report(), page.parent)  # an earlier report is replaced


def test_tune_trains_a_lens_that_lens_reads(embedded, tmp_path):
    (tmp_path / "text").write_text("the cat sat on the mat. " * 40)
    sizes = [
        "--steps",
        "30",
        "--batch",
        "4",
        "--length",
        "16",
        "--learning-rate",
        "0.05",
    ]
    result = RUN.invoke(app, ["tune", "text", *sizes])
    assert result.exit_code == 0, result.output
    bits = re.findall(r"logit lens ([\d.]+), tuned lens ([\d.]+)", result.stdout)
    assert len(bits) == 3 and bits[-1] == ("0.000", "0.000")
    assert all(float(after) < float(before) for before, after in bits[:-1])
    assert TunedLens.load("lens.safetensors").bias.shape == (2, 16)
    again = RUN.invoke(app, ["tune", "text", *sizes])
    assert again.exit_code == 2 and "--overwrite" in again.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["lens", ""], "text is empty"),
        (["lens"], "Give a text"),
        (["lens", "a.png"], "| jmamba lens -"),
        (["lens", "a", "--layers", "3"], "layers 0 to 2"),
        (["lens", "a", "--top", "300"], "give 1 to 256"),
        (["lens", "a", "--tuned", "nothing"], "nothing"),
        (["tune", "short"], "hold no window of 128"),
        (["tune", "latin1"], "not UTF-8 text at byte 1"),
        (["tune", "nothing"], "nothing"),
    ],
)
def test_mistakes_exit_with_2(embedded, tmp_path, args, message):
    (tmp_path / "short").write_text("cat")
    (tmp_path / "latin1").write_bytes(b"n\xe9")
    result = RUN.invoke(app, args)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert len(list(tmp_path.iterdir())) == 2
