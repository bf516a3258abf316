"""Tokenized texts: what is written is read, packed, shuffled, and the same anywhere."""

import gzip
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import assert_close
from random_models import random_text_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from typer.testing import CliRunner

from jmamba import Sharding
from jmamba.cli import app
from jmamba.files.token_files import INDEX, TokenFolder, read_tokens, write_tokens
from jmamba.files.tokenizer import ByteTokenizer, FileTokenizer
from jmamba.training import TextBatch, TrainConfig, new_model, text_loss, train
from jmamba.training.documents import tokenize_files
from jmamba.training.sources import draw_from

pytest.importorskip("grain")
from jmamba.training.token_rows import TokenRows

VOCABULARY = 24


def random_documents(count: int = 40) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    sizes = random.integers(1, 30, count)
    return [random.integers(0, VOCABULARY, size) for size in sizes]


@pytest.fixture
def texts(tmp_path) -> TokenFolder:
    return written(tmp_path / "tokens")


def written(folder: Path, **options) -> TokenFolder:
    folder.mkdir()
    choices = {"vocab_size": VOCABULARY, "tokenizer": "bytes", "shard_tokens": 200}
    write_tokens(random_documents(), folder, **(choices | options))
    return read_tokens(folder)


def open_rows(texts: TokenFolder, **changes) -> TokenRows:
    return TokenRows(texts, **({"batch": 8, "length": 16, "seed": 0} | changes))


def test_shards_hold_all_documents_in_order(texts):
    found = [
        part
        for shard in texts.shards
        for part in np.split(shard.tokens, shard.starts[1:])
    ]
    for x, y in zip(found, random_documents(), strict=True):
        assert x.dtype == np.uint8 and np.array_equal(x, y)
    assert len(texts.shards) > 2
    assert all(isinstance(shard.tokens, np.memmap) for shard in texts.shards)


@pytest.mark.parametrize("size", [256, 257, 65_536, 65_537])
def test_tokens_take_the_fewest_bytes_that_hold_them(tmp_path, size):
    tokens = np.array([0, size - 1])
    (tmp_path / "t").mkdir()
    write_tokens([tokens], tmp_path / "t", vocab_size=size, tokenizer=None)
    (shard,) = read_tokens(tmp_path / "t").shards
    expected = {256: 1, 257: 2, 65_536: 2, 65_537: 4}[size]
    assert shard.tokens.itemsize == expected and shard.tokens.tolist() == [0, size - 1]


def test_packed_rows_lose_as_little_as_documents_apart(texts):
    """The loss of packed rows is that of their documents, each read on its own."""
    rows = open_rows(texts)
    batch = rows.rows(np.arange(4))
    model = random_text_model(layers=1, d_model=16)
    nats, count = 0.0, 0
    for row in zip(*map(np.asarray, batch), strict=True):
        tokens, targets, ids = row
        for number in np.unique(ids):
            part = ids == number
            alone = TextBatch(tokens[None, part], targets[None, part])
            weight = int((targets[part] >= 0).sum())
            nats += weight * float(text_loss(model, jax.tree.map(np.asarray, alone)))
            count += weight
    assert_close(text_loss(model, batch), nats / count, 1e-5)
    assert 0 < (batch.targets < 0).sum() < 30


def test_every_epoch_has_all_rows_once_in_another_order(texts):
    rows = open_rows(texts, batch=1)
    orders = [
        [int(rows.order[epoch * rows.train_rows + i]) for i in range(rows.train_rows)]
        for epoch in range(2)
    ]
    assert [sorted(order) for order in orders] == [[*range(rows.train_rows)]] * 2
    assert orders[0] != orders[1] != sorted(orders[1])
    again, other = open_rows(texts, batch=1), open_rows(texts, batch=1, seed=1)
    first = rows.read(3, np.arange(1)).tokens
    assert np.array_equal(first, again.read(3, np.arange(1)).tokens)
    assert not np.array_equal(first, other.read(3, np.arange(1)).tokens)


def test_held_out_rows_are_never_trained_on(texts):
    rows = open_rows(texts)
    total = sum((len(shard.tokens) - 1) // 16 for shard in texts.shards)
    assert rows.train_rows + rows.held_out == total
    assert max(int(rows.order[i]) for i in range(5 * total)) == rows.train_rows - 1
    last = rows.rows(np.array([total - 1])).tokens
    assert np.array_equal(rows.test(100).tokens[-1:], last)


def test_batches_are_the_same_on_every_mesh(texts):
    rows = open_rows(texts)
    whole = draw_from(rows, None)(2)
    for axes in ({"data": 2, "fsdp": 2}, {"fsdp": 2, "sequence": 2}):
        sharding = Sharding(**axes, devices=jax.devices()[:4])
        for x, y in zip(draw_from(rows, sharding)(2), whole, strict=True):
            assert np.array_equal(np.asarray(x), np.asarray(y))
    halves = [rows.read(2, np.arange(8)[half]) for half in (slice(4), slice(4, 8))]
    for x, *parts in zip(whole, *halves, strict=True):
        assert np.array_equal(np.asarray(x), np.concatenate(parts))


def test_a_run_goes_on_where_it_was_in_its_data(texts, tmp_path):
    config = TrainConfig(4, 8, 16, warmup=1, save_every=2)
    model = random_text_model(layers=1, d_model=16)

    def run(folder, stop=None):
        losses = []

        def report(step):
            losses.append(step.loss)
            if step.step == stop:
                raise KeyboardInterrupt

        train(model, open_rows(texts), config, directory=folder, report=report)
        return losses

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", stop=2)
    assert run(tmp_path / "part") == whole[2:]
    (tmp_path / "other").mkdir()
    others = written(tmp_path / "other" / "tokens", shard_tokens=100)
    with pytest.raises(ValueError, match="data was .* and is"):
        train(model, open_rows(others), config, directory=tmp_path / "part")


def test_models_that_do_not_know_all_tokens_are_refused(tmp_path):
    texts = written(tmp_path / "tokens", vocab_size=300)
    small = new_model(random_text_model().config, 0)
    with pytest.raises(ValueError, match="from 0 to 299, and the model only 24: give"):
        train(small, open_rows(texts), TrainConfig(2, 8, 16, warmup=1))


def test_too_few_tokens_are_refused(texts):
    with pytest.raises(ValueError, match="holds 0 rows of 300 tokens.*shorter length"):
        open_rows(texts, length=300)


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "tokens-00001.npy").unlink(), "tokens-00001.npy is missing"),
        (lambda f: damage(f / "tokens-00001.npy"), "changed: tokens-00001.npy"),
        (lambda f: (f / "tokens-00001.npy").write_bytes(b"x"), "is damaged"),
        (lambda f: np.save(f / "tokens-00001.npy", np.zeros(3, np.uint8)),
         "and tokens.json says"),
        (lambda f: (f / INDEX).write_text("{}"), "does not describe tokens"),
        (lambda f: (f / INDEX).write_text('{"shards": [], "vocab_size": 1e99}'),
         "does not describe tokens"),
        (lambda f: (f / INDEX).unlink(), "jmamba tokenize FILES --out FOLDER"),
    ],
)  # fmt: skip
def test_damaged_shards_are_named(texts, change, message):
    change(texts.folder)
    with pytest.raises(ValueError, match=message):
        read_tokens(texts.folder)


def test_documents_are_files_and_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntext")
    lines = "\n".join(json.dumps({"text": text}) for text in ("two", "", "n\u00e9"))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    files = [tmp_path / "a.txt", tmp_path / "b.jsonl.gz"]
    found = tokenize_files(files, ByteTokenizer(eos_ids=(0,)))
    expected = [b"one\ntext\0", b"two\0", "n\u00e9\0".encode()]
    assert [tokens.tobytes() for tokens in found] == expected
    (tmp_path / "c.jsonl").write_text('{"text": 3}')
    with pytest.raises(ValueError, match="Line 1 of .*c.jsonl is no JSON object with"):
        list(tokenize_files([tmp_path / "c.jsonl"], ByteTokenizer()))


def save_words(folder: Path) -> Path:
    words = {"<end>": 0, "the": 1, "cat": 2, "sat": 3, "<unk>": 4}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def test_texts_of_a_tokenizers_file_train_and_are_read_by_their_model(tmp_path):
    """Tokenize, train and load from the command line."""
    words = save_words(tmp_path / "words")
    assert FileTokenizer(words).vocab_size == 5
    (tmp_path / "text").write_text("the cat sat the cat " * 60)
    (tmp_path / "odd").write_bytes(b"\xff\xfe")
    tokens, out = tmp_path / "tokens", tmp_path / "out"

    def run(*words):
        return CliRunner().invoke(app, [str(word) for word in words])

    result = run("tokenize", tmp_path / "odd", "--out", tokens, "--tokenizer", words)
    assert result.exit_code == 2 and "is not UTF-8" in " ".join(result.stderr.split())
    result = run("tokenize", tmp_path / "text", "--out", tokens, "--tokenizer", words)
    assert result.exit_code == 0, result.output
    assert "300 tokens of 1 documents in 1 shards" in result.stdout
    again = run("tokenize", tmp_path / "text", "--out", tokens)
    assert again.exit_code == 2 and "exists already" in again.stderr
    sizes = "--d-model 8 --num-layers 1 --d-state 3 --steps 2 --batch 2 --length 16"
    sizes += " --warmup 1 --dtype float32"
    result = run("train", tokens, "--out", out, *sizes.split())
    assert result.exit_code == 0, result.output
    card = (out / "model" / "README.md").read_text()
    assert "bits per token** on the last 16 tokens" in card
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["vocab_size"] == 5
    assert (out / "model" / "tokenizer.json").is_file()
