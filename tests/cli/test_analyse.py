"""`jmamba analyse`: documents to arrays on disk, and what is refused."""

import json
import re

import numpy as np
import pytest
from flax import nnx
from typer.testing import CliRunner

from jmamba import MambaConfig, MambaLM
from jmamba.analysis import AnalysedDocuments
from jmamba.cli import app

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analyse")
    config = MambaConfig(vocab_size=256, d_model=8, num_layers=2, d_state=4)
    model = MambaLM(config, rngs=nnx.Rngs(0))
    model.save_pretrained(folder / "model", tokenizer="bytes")
    (folder / "a.txt").write_text("a cat")
    lines = [{"text": "one"}, {"text": "and two"}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "b.jsonl").write_text(text)
    return folder


def type_analyse(folder, *words):
    return CliRunner().invoke(
        app, ["analyse", "--model", str(folder / "model"), *map(str, words)]
    )


def test_texts_and_what_tokenize_made_of_them_give_the_same(folder):
    texts = folder / "a.txt", folder / "b.jsonl"
    rows = "--what", "rows", "--layers", "-1", "--batch", 2
    result = type_analyse(folder, *texts, *rows, "--out", folder / "texts")
    assert result.exit_code == 0, result.output
    assert "rows of 3 of 3 documents" in result.output
    found = AnalysedDocuments(folder / "texts")
    assert bytes(found.document(2)["tokens"].tolist()) == b"and two"
    about = json.loads((folder / "texts/results.zarr/zarr.json").read_text())
    names = about["attributes"]["jmamba"]["documents"]
    assert names == ["a.txt", "b.jsonl:0", "b.jsonl:1"]
    tokens = folder / "tokens"
    typed = ["tokenize", *map(str, texts), "--out", str(tokens), "--shard-tokens", "6"]
    assert CliRunner().invoke(app, typed).exit_code == 0
    result = type_analyse(folder, tokens, *rows, "--out", folder / "again")
    assert result.exit_code == 0, result.output
    again = AnalysedDocuments(folder / "again")
    for number in range(3):
        one, two = (x.document(number)["rows"] for x in (found, again))
        assert np.array_equal(one, two) and one.shape == (1, found.lengths[number])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.txt", "--what", "row"], "There is no analysis row; give some of rows"),
        (["a.txt", "--what", "rows", "--reduction", "sum"], "Unknown reduction 'sum'"),
        (["a.txt", "--what", "rows", "--layers", "7"], "the model has layers 0 to 1"),
        (["a.txt", "--what", "rows", "--layers", "x"], "is not a list of numbers"),
        (["c.txt", "--what", "rows"], "no such file"),
        (["a.txt", "model", "--what", "rows"], "is a folder; give one of tokenized"),
        (["a.txt", "--what", "vectors", "--memory", "1e-6"],
         "vectors of a batch would take .* or raise memory_limit"),
        (["a.txt", "--what", "rows", "--mesh", "data=3"], "a mesh of 3 devices"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(folder, words, message):
    names = [folder / word if word[-4:] in (".txt", "odel") else word for word in words]
    result = type_analyse(folder, *names, "--out", folder / "none")
    assert result.exit_code == 2, result.output
    assert not (folder / "none").exists()
    assert re.search(message, " ".join(result.stderr.split())), result.stderr
