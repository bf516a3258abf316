"""The dynamics report: numbers against their definitions, pictures, page, folder."""

import json
import re
from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest
from reports import assert_readable, tiny_model
from typer.testing import CliRunner

from jmamba import trace
from jmamba.checkpoints import ByteTokenizer
from jmamba.cli import app
from jmamba.report.dynamics.measure import DynamicsReport, measure_dynamics
from jmamba.report.dynamics.page import COLUMNS, dynamics_page, write_dynamics
from jmamba.report.dynamics.plates import DYNAMICS_PLATES
from jmamba.report.folder import draw_png

TEXT = "a\u00e9 <b>"


@cache
def model():
    return tiny_model(num_layers=2)


@cache
def report() -> DynamicsReport:
    return measure_dynamics(model(), ByteTokenizer(), TEXT, exponents=3)


def test_report_holds_what_the_layers_do():
    found, tokens = report(), jnp.array([list(TEXT.encode())])
    inside = trace(model(), tokens)
    h_in, h_out = (
        np.asarray(h[:, 0]) for h in (inside.residual_in, inside.residual_out)
    )
    sizes = np.linalg.norm(h_in, axis=-1), np.linalg.norm(h_out, axis=-1)
    np.testing.assert_allclose(found.growth, np.log(sizes[1] / sizes[0]), atol=1e-5)
    cosine = np.sum(h_in * h_out, axis=-1) / (sizes[0] * sizes[1])
    np.testing.assert_allclose(found.cosine, cosine, atol=1e-5)
    assert found.norms.shape == (3, 7) and found.expands.shape == (2, 7)
    mean = found.exponents_per_layer.mean(axis=0)
    np.testing.assert_allclose(found.exponents, mean, rtol=1e-5)
    # two bytes make one character
    assert found.piece_labels == ["a", "\u00e9", "\u2423", "<", "b", ">"]


@pytest.mark.parametrize("plate", DYNAMICS_PLATES, ids=lambda plate: plate.name)
def test_every_picture_is_drawn_from_arrays_that_are_stored(plate):
    figure = plate.draw(report())
    assert_readable(figure)
    assert re.search(r"\d", plate.describe(report()))
    png = draw_png(figure)
    assert png.startswith(b"\x89PNG")
    assert set(plate.arrays) <= set(report().arrays())


def test_page_escapes_the_text_and_shows_every_layer():
    figures = {plate.name: b"png" for plate in DYNAMICS_PLATES}
    text = dynamics_page(report(), figures)
    assert "&lt;b&gt;" in text and "<b>" not in text
    assert text.count("<tr><th>") == 2 + 2  # two heads and two layers
    assert text.count("<tr><td>") == 2  # the tokens' regimes, layer by layer
    assert all(name.replace("_", " ") in text for name in COLUMNS)
    assert "http" not in text.replace("http-equiv", "")


def test_folder_holds_page_pictures_arrays_and_summary(tmp_path):
    page = write_dynamics(report(), tmp_path / "out")
    made = json.loads((page.parent / "summary.json").read_text())
    assert sorted(p.name for p in page.parent.iterdir()) == sorted(made["files"])
    assert made["made_by"] == "jmamba dynamics"
    with np.load(page.parent / "arrays.npz") as arrays:
        np.testing.assert_array_equal(arrays["growth"], report().growth)
    write_dynamics(report(), tmp_path / "out")  # an earlier report is replaced


def test_command_prints_layers_and_exponents(tmp_path):
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app, ["dynamics", "cat", "--out", str(out), "--exponents", "2"]
    )
    assert result.exit_code == 0, result.output
    assert "positive_mass" in result.output and "Exponents over depth" in result.output
    assert (out / "index.html").is_file()


def test_command_says_what_cannot_be():
    result = CliRunner().invoke(app, ["dynamics", "", "--out", "nowhere"])
    assert result.exit_code == 2
    assert "The text is empty" in result.output
