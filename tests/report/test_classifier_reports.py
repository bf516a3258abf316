"""Reports on classifiers of texts: numbers against the model, classes by name."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reports import assert_readable
from typer.testing import CliRunner

import jmamba
from jmamba.attention import Contrast, explain
from jmamba.checkpoints import ByteTokenizer
from jmamba.cli import app
from jmamba.report import explain_text, measure_lens, measure_patches
from jmamba.report.lens.plates import LENS_PLATES
from jmamba.report.text.plates import TEXT_PLATES

NAMES = ("bad", "so so", "good")
TEXT = "<b>é"


@cache
def classifier():
    config = jmamba.MambaConfig(vocab_size=256, d_model=8, num_layers=2, d_state=4)
    model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
    return jmamba.MambaClassifier.from_language_model(model, NAMES, pad_token_id=0)


@cache
def found():
    quick = {"matrices": False, "jacobian": False}
    asked = {"target": "Good", "against": 0, "method": "gradient_x_input"}
    return explain_text(classifier(), ByteTokenizer(), TEXT, **quick, **asked)


def test_a_class_is_explained_by_leaving_out_and_by_a_method():
    report, model = found(), classifier()
    ids = list(TEXT.encode())
    assert report.question.labels == ("good", "bad")
    assert report.explained == "good rather than bad"
    best = np.argsort(-np.asarray(model([ids])[0]))
    assert report.predictions.labels == tuple(NAMES[i] for i in best)

    def margin(tokens):
        scores = jax.nn.log_softmax(model([tokens])[0]) / jnp.log(2)
        return float(scores[2] - scores[0])

    for piece, lost in zip(report.pieces, report.left_out, strict=True):
        rest = [*ids[: piece.start], *ids[piece.stop :]]
        np.testing.assert_allclose(lost, margin(ids) - margin(rest), atol=2e-5)
    tokens = jnp.array([ids])
    asked = explain(model, tokens, "gradient_x_input", target=Contrast(2, 0))
    np.testing.assert_allclose(report.relevance["gradient_x_input"], asked[0])


def test_pictures_speak_of_classes():
    drawn = {plate.name: plate for plate in TEXT_PLATES}
    for name in ("predictions", "drivers"):
        assert_readable(drawn[name].draw(found()))
    assert "good" in drawn["drivers"].describe(found())
    assert "class" in repr(found()) and "next token" not in repr(found())


def test_each_layer_says_a_class():
    report = measure_lens(classifier(), ByteTokenizer(), TEXT)
    tokens = jnp.array([list(TEXT.encode())])
    shares = jax.nn.softmax(classifier()(tokens)[0])
    assert set(report.top_labels[-1][-1]) == set(NAMES)  # fewer than were asked for
    np.testing.assert_allclose(
        report.last[-1], np.sort(np.asarray(shares))[::-1], atol=1e-5
    )
    assert report.reading.divergence[-1].max() < 1e-5
    assert_readable(LENS_PLATES[0].draw(report))


def test_patches_bring_a_class_back():
    report = measure_patches(
        *(classifier(), ByteTokenizer(), TEXT, "<i>é"), answer="good", instead_of="bad"
    )
    assert report.asked == "good rather than bad"
    tokens = [jnp.array([list(text.encode())]) for text in (TEXT, "<i>é")]
    goal, base = (classifier()(one)[0] for one in tokens)
    np.testing.assert_allclose(report.goal, goal[2] - goal[0], atol=1e-5)
    np.testing.assert_allclose(report.base, base[2] - base[0], atol=1e-5)
    np.testing.assert_allclose(report.recovered[-1, -1], 1, rtol=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("sentiment") / "model"
    classifier().save_pretrained(place, tokenizer="bytes")
    return str(place)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        pytest.param(
            ["explain", TEXT, "--target", "so so"],
            "so so as the class",
            marks=pytest.mark.exhaustive,
        ),
        pytest.param(
            ["dynamics", TEXT, "--exponents", "1"],
            "Exponents over depth",
            marks=pytest.mark.exhaustive,
        ),
        (["lens", TEXT], "likeliest classes"),
        (["patch", TEXT, "<i>é", "--answer", "good"], "What brings good back"),
        (["info"], "3: bad, so so, good"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_commands_take_classifiers(folder, args, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [*args, "--model", folder])
    assert result.exit_code == 0, result.output
    assert said in result.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["explain", TEXT, "--target", "nice"], "Classes are bad, so so, good"),
        (["patch", TEXT, "<i>é", "--answer", "3"], "There is no class 3"),
        (["generate", TEXT], "is a MambaClassifier, not a MambaLM"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_commands_say_what_a_classifier_cannot(folder, args, said):
    result = CliRunner().invoke(app, [*args, "--model", folder])
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
