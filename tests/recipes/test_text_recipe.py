import dataclasses
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from random_models import random_text_model

from jmamba import MambaLM
from jmamba.attention import mamba_lrp
from jmamba.evaluation import bootstrap_interval
from jmamba.recipes.text import findings, methods, recipe
from jmamba.recipes.text.findings import CLAIMS, METRICS, Ranking, check, summarise
from jmamba.recipes.text.methods import all_explanations, explain_all
from jmamba.recipes.text.scores import delete_words, forget_words
from jmamba.recipes.text.sentences import (
    LABELS,
    PADDING,
    UNKNOWN,
    Encoded,
    Rated,
    Vocabulary,
    drop_words,
    read_rated,
    split_rated,
)
from jmamba.recipes.text.sentiment import FILE, label_loss, predict
from jmamba.recipes.workbench import Workbench

RATED = [
    Rated(2.0 if i % 2 else -2.0, f"a {'good' if i % 2 else 'bad'} film number {i % 3}")
    for i in range(40)
]


@pytest.fixture
def encoded() -> Encoded:
    """Three sentences of different lengths, for a model of 24 tokens."""
    texts = ["good film, good plot", "a bad film", "bad"]
    rated = [Rated(r, t) for r, t in zip((2.0, -1.0, -3.0), texts, strict=True)]
    return Vocabulary(texts, min_count=1).encode(rated, length=8)


@pytest.fixture
def model() -> MambaLM:
    return random_text_model(layers=2)


def write_sentences(folder):
    lines = [f"{i}\t{one.rating}\t{one.text}" for i, one in enumerate(RATED)]
    lines.append("99\t0.1\tneutral")
    (folder / FILE).write_text("\n".join(lines) + "\n")
    (folder / recipe.VADER).write_text("good\t1.9\t0.9\t[2]\nbad\t-2.5\t0.6\t[-3]\n")
    return folder


def test_recipe_runs_to_its_tables(tmp_path, monkeypatch):
    names = list(all_explanations(0))
    kept = {"random", "embedding norm"}

    def few(seed):
        """Return the real names, most with a cheap explanation behind them."""
        real = all_explanations(seed)
        return {n: real[n] if n in kept else real["random"] for n in names}

    monkeypatch.setattr(recipe, "all_explanations", few)
    interval = partial(bootstrap_interval, resamples=9)
    for module in (recipe, findings):
        monkeypatch.setattr(module, "bootstrap_interval", interval)
    data = write_sentences(tmp_path)
    config = dataclasses.replace(
        recipe.SIZES["quick"], d_model=8, num_layers=1, steps=3, batch=2,
        min_count=1, length=9, sentences=3, words=8,
    )  # fmt: skip

    bench = Workbench(tmp_path / "out", name="text", config=config, data=data)
    recipe.run(config, bench)
    found = bench.finish().read_text()
    for part in ("## Models", "## Faithfulness, 3 sentences", "| mamba_lrp |",
                 "## The papers' rankings", "lexicon VADER, 2 polar",
                 "text-curves.png", "text-example.png"):  # fmt: skip
        assert part in found


def test_read_rated_leaves_out_what_is_neutral(tmp_path):
    rated = read_rated(write_sentences(tmp_path) / FILE, threshold=1.0)
    assert rated == RATED
    split = split_rated(rated)
    assert [len(part) for part in split] == [32, 4, 4]
    assert sorted(one for part in split for one in part) == sorted(RATED)


def test_read_rated_messages(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("1\tgood\tfilm\n")
    with pytest.raises(ValueError, match="line 1: .* is not number, rating and text"):
        read_rated(path, threshold=1.0)
    path.write_text("1\t0.5\tfilm\n")
    with pytest.raises(ValueError, match="no sentence rated 1.0 or more"):
        read_rated(path, threshold=1.0)


def test_dropped_words_are_words(encoded):
    dropped = drop_words(encoded, np.random.default_rng(0), 1.0)
    changed = dropped.tokens != encoded.tokens
    assert changed.any() and not (changed & ~encoded.present).any()
    assert (dropped.tokens[changed] == UNKNOWN).all()


def test_short_sentences_are_taken(encoded):
    short = encoded.take_short(3, 5)
    assert short.words == [["a", "bad", "film"], ["bad"]]
    assert short.tokens.tolist() == encoded.tokens[1:, :4].tolist()


def test_deleted_words_leave_the_shorter_sentence(encoded):
    gone = np.zeros(encoded.tokens.shape, bool)
    gone[0, [1, 2]] = gone[1, 0] = True
    a = encoded.tokens
    left = delete_words(encoded, gone)
    assert left.query.tolist() == [3, 2, 1]
    assert left.tokens[0, :4].tolist() == [a[0, 0], a[0, 3], a[0, 4], a[0, 5]]
    assert left.tokens[1, :3].tolist() == a[1, 1:4].tolist()
    assert (left.tokens[:, 4:] == PADDING).all()
    forgotten = forget_words(encoded, gone).tokens
    assert (forgotten == np.where(gone, UNKNOWN, a)).all()


def test_prediction_and_relevance_do_not_depend_on_padding(encoded, model):
    logits = predict(model, encoded)
    alone = np.array([2])
    short = encoded.take(alone)
    short = short._replace(tokens=short.tokens[:, :2])
    np.testing.assert_allclose(predict(model, short), logits[2:], rtol=1e-5, atol=1e-6)
    ask = partial(methods._ask, mamba_lrp)
    relevance = explain_all(ask, model, encoded)
    np.testing.assert_allclose(
        explain_all(ask, model, short)[:, :1], relevance[2:, :1], rtol=1e-4, atol=1e-6
    )
    assert (relevance[~encoded.present] == 0).all()


def test_loss_is_of_the_two_labels(encoded, model):
    whole = np.asarray(model(jnp.asarray(encoded.tokens)).logits, np.float64)
    ends = whole[np.arange(3), encoded.query][:, list(LABELS)]
    right = ends[np.arange(3), encoded.labels]
    expected = np.mean(np.log(np.exp(ends).sum(axis=1)) - right)
    batch = Encoded(*(jnp.asarray(x) for x in encoded[:3]), words=[])
    loss = label_loss(model, batch)
    np.testing.assert_allclose(float(loss), expected, rtol=1e-5)


def test_leave_one_out_is_the_fall_of_the_logit(encoded, model):
    relevance = explain_all(all_explanations(0)["leave one out"], model, encoded)
    gone = np.zeros(encoded.tokens.shape, bool)
    gone[0, 3] = True
    logits = [
        predict(model, one)[0, 1] for one in (encoded, forget_words(encoded, gone))
    ]
    np.testing.assert_allclose(relevance[0, 3], logits[0] - logits[1], atol=1e-6)


def test_integrated_gradients_start_from_unknown_words(encoded, model):
    method = all_explanations(0)["integrated_gradients"]
    relevance = explain_all(method, model, encoded)
    empty = forget_words(encoded, encoded.present)
    change = (predict(model, encoded) - predict(model, empty))[range(3), encoded.labels]
    np.testing.assert_allclose(relevance.sum(axis=1), change, atol=0.02)
    again = explain_all(method, model, empty)
    np.testing.assert_allclose(again, 0, atol=1e-7)


def test_claims_are_about_methods_that_exist():
    names = set(all_explanations(0))
    assert {claim.better for claim in CLAIMS} | {c.worse for c in CLAIMS} <= names
    assert {claim.metric for claim in CLAIMS} <= set(METRICS)


def test_claims_are_judged_by_their_metric():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (2, 30))
    values = {
        "flipping": {"a": 1 + noise, "b": noise[::-1]},
        "au_mse": {"a": 1 + noise, "b": noise[::-1]},
    }
    up, down = (check(Ranking("paper", metric, "a", "b"), values) for metric in values)
    assert up.gain.low > 0.8 and up.models == 2
    assert down.gain.high < -0.8 and down.models == 0
    means = dict.fromkeys(recipe.PUBLISHED, 0.0) | {"alti": 5.0}
    summary = summarise([up, down], means)
    assert "agree with the papers on 1 of 2: a over b (ΔA^F)" in summary
    assert "contradict 1 of 2: a over b (AU-MSE)" in summary
    assert "those of alti," in summary
