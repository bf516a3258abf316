"""Classifiers of texts are made of language models and labelled lines."""

import re

import numpy as np
import pytest
from flax import nnx
from typer.testing import CliRunner

import jmamba
from jmamba.checkpoints import ByteTokenizer
from jmamba.cli import app
from jmamba.models.classifier_architecture import make_classifier
from jmamba.training.classification import Labelled
from jmamba.training.labelled_texts import (
    LabelledTexts,
    encode_labelled,
    hold_out,
    read_labelled_texts,
)

RUN = CliRunner()
CONFIG = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
MODEL = jmamba.MambaLM(CONFIG, rngs=nnx.Rngs(0))


@pytest.fixture
def embedded(monkeypatch, tmp_path):
    """Use a tiny model for the embedded one, and write where nothing else is."""
    monkeypatch.setattr(
        "jmamba.embedded.text.load_embedded",
        lambda *, dtype=None: (MODEL, ByteTokenizer()),
    )
    monkeypatch.chdir(tmp_path)


def test_the_command_makes_a_classifier(embedded, tmp_path):
    """Of texts that end in one of two letters."""
    rng = np.random.default_rng(0)
    lines = [
        f"{('low', 'high')[one]}\t{'abcde'[rng.integers(5)] * 2}{'yz'[one]}\n"
        for one in rng.integers(0, 2, 60)
    ]
    (tmp_path / "texts.tsv").write_text("".join(lines))
    sizes = ["--steps", "60", "--batch", "16", "--learning-rate", "0.02"]
    result = RUN.invoke(app, ["finetune", "texts.tsv", "--out", "model", *sizes])
    assert result.exit_code == 0, result.output
    said = re.search(r"([\d.]+) % of 6 texts .* commonest class, [\d.]+", result.stdout)
    assert said and float(said[1]) == 100.0, result.stdout
    model = jmamba.MambaClassifier.from_pretrained("model")
    assert model.config.class_names == ("high", "low")
    assert model.config.pad_token_id == 0
    best = np.asarray(model([list(b"aay\0"), list(b"ccz\0")])).argmax(axis=1)
    assert best.tolist() == [1, 0]
    again = RUN.invoke(app, ["finetune", "texts.tsv", "--out", "model"])
    assert again.exit_code == 2 and "model" in again.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("good I liked it\n", "line 1: 'good I liked it' is not a class and a text"),
        ("good\ta\ngood\tb\n", r"has the classes \['good'\]; a classifier needs"),
        (None, "texts.tsv"),
    ],
)
def test_files_that_cannot_be(embedded, tmp_path, text, message):
    if text is not None:
        (tmp_path / "texts.tsv").write_text(text)
    result = RUN.invoke(app, ["finetune", "texts.tsv", "--out", "model"])
    assert result.exit_code == 2
    assert re.search(message, " ".join(result.stderr.split())), result.stderr
    with pytest.raises(ValueError, match=message):
        read_labelled_texts("texts.tsv")


def test_texts_and_models_that_cannot_be():
    given = LabelledTexts(("a\0b",), np.array([0]), ("x", "y"))
    with pytest.raises(ValueError, match="Text 0, .* holds token 0, which stands for"):
        encode_labelled(ByteTokenizer(), given, length=9, pad=0)
    with pytest.raises(ValueError, match="1 text cannot be split; give 2 or more"):
        hold_out(Labelled(np.zeros((1, 2), int), np.zeros(1, int)))
    with pytest.raises(TypeError, match="no classifier upon a Linear; give a model of"):
        make_classifier(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), 2)  # type: ignore[arg-type]
