import dataclasses
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from random_models import random_text_model

from jmamba import MambaLM
from jmamba.attention import mamba_lrp
from jmamba.evaluation import compare_over_seeds
from jmamba.recipes.text import findings, recipe, tables
from jmamba.recipes.text.baselines import model_free, word_polarity
from jmamba.recipes.text.findings import (
    CLAIMS,
    PUBLISHED,
    Ranking,
    check,
    write_text_findings,
)
from jmamba.recipes.text.methods import (
    IG_TOLERANCE,
    all_explanations,
    ask_at_end,
    explain_all,
    integrate_from_padding,
)
from jmamba.recipes.text.operators import OPERATORS, delete_words, forget_words
from jmamba.recipes.text.scores import read_in_all_ways
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
    claim = CLAIMS[0]
    cheap = all_explanations()["embedding norm"]
    methods = dict.fromkeys([claim.better, claim.worse], cheap)
    monkeypatch.setattr(recipe, "all_explanations", lambda: methods)
    monkeypatch.setattr(findings, "CLAIMS", [claim])
    monkeypatch.setattr(findings, "PUBLISHED", dict.fromkeys([*methods, "random"], 0))
    few = partial(compare_over_seeds, resamples=9)
    for module in (tables, findings):
        monkeypatch.setattr(module, "compare_over_seeds", few)
    data = write_sentences(tmp_path)
    config = dataclasses.replace(
        recipe.SIZES["quick"], d_model=8, num_layers=1, steps=3, batch=2,
        min_count=1, length=9, sentences=3, chosen_by=2, words=8,
    )  # fmt: skip

    bench = Workbench(tmp_path / "out", name="text", config=config, data=data)
    recipe.run(config, bench)
    found = bench.finish().read_text()
    for part in ("## Models", "## Faithfulness, 3 sentences", "| mamba_lrp |",
                 "## Sanity checks, ΔA^F deleted", "## The papers' rankings",
                 "lexicon VADER, 2 polar", "text-curves.png",
                 "text-example.png"):  # fmt: skip
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
    explain = partial(ask_at_end, mamba_lrp)
    relevance = explain_all(explain, model, encoded)
    np.testing.assert_allclose(
        explain_all(explain, model, short)[:, :1],
        relevance[2:, :1],
        rtol=1e-4,
        atol=1e-6,
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


@pytest.mark.parametrize("operator", OPERATORS)
def test_leave_one_out_is_the_fall_of_the_logit(encoded, model, operator):
    method = all_explanations()[f"leave one out, {operator}"]
    relevance = explain_all(method, model, encoded)
    gone = np.zeros(encoded.tokens.shape, bool)
    gone[0, 3] = True
    left = OPERATORS[operator](encoded, gone)
    logits = [predict(model, one)[0, 1] for one in (encoded, left)]
    np.testing.assert_allclose(relevance[0, 3], logits[0] - logits[1], atol=1e-6)


def test_integrated_gradients_start_from_padding_and_keep_the_end(encoded, model):
    relevance = explain_all(integrate_from_padding, model, encoded)
    empty = np.where(encoded.present, PADDING, encoded.tokens)
    rows = np.arange(3), encoded.labels
    whole = predict(model, encoded)
    change = (whole - predict(model, encoded._replace(tokens=empty)))[rows]
    gap = relevance.sum(axis=1) - change
    # to the tolerance that is asked for, or to rounding of the logits
    most = np.maximum(IG_TOLERANCE * abs(change), 1e-6 * abs(whole[rows]))
    assert (abs(gap) <= most).all()
    again = explain_all(integrate_from_padding, model, encoded._replace(tokens=empty))
    np.testing.assert_array_equal(again, 0)


def test_rankings_without_a_model_are_those_of_their_names(encoded):
    free = model_free(encoded, 24, 0)
    found = {name: rank(None, encoded) for name, rank in free.items()}
    assert (np.diff(found["last words"]) == 1).all()
    np.testing.assert_array_equal(found["first words"], -found["last words"])
    bad, film = encoded.tokens[1, 1], encoded.tokens[1, 2]
    places = encoded.tokens == film  # "film" is in two sentences, "bad" in two
    assert (found["common words"][places] == 2).all()
    np.testing.assert_array_equal(found["rare words"], -found["common words"])
    mean = (1 - 1 - 1) / 3
    polarity = word_polarity(encoded, 24)
    assert polarity[bad] == pytest.approx((-2 - 2 * mean) / (2 + 5))
    assert polarity[film] == pytest.approx((0 - 2 * mean) / (2 + 5))
    toward = found["polarity of words"]
    np.testing.assert_allclose(toward[1], -polarity[encoded.tokens[1]])


def test_readings_differ_where_relevance_is_negative():
    assert list(read_in_all_ways(np.array([[0.0, 2.0]]))) == ["signed"]
    found = read_in_all_ways(np.array([[-3.0, 2.0]]))
    assert found["positive"].tolist() == [[0, 2]]
    assert found["magnitude"].tolist() == [[3, 2]]


def test_claims_are_about_methods_that_exist():
    names = {*all_explanations(), "random"}
    assert {claim.better for claim in CLAIMS} | {c.worse for c in CLAIMS} <= names
    assert {*PUBLISHED} <= names
    assert {claim.metric for claim in CLAIMS} <= {*tables.METRICS}


def measured(values: np.ndarray) -> list[dict]:
    """Return what the recipe keeps of a method whose scores are all the same."""
    return [
        {"readings": {"signed": {m: {o: of_seed for o in OPERATORS}
                                 for m in tables.METRICS}}}
        for of_seed in values.tolist()
    ]  # fmt: skip


def test_claims_are_judged_by_their_metric(monkeypatch, tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, (5, 30))
    found = {"a": measured(1 + noise), "b": measured(noise[::-1])}
    found |= {name: found["b"] for name in PUBLISHED}
    chosen = dict.fromkeys(found, "signed")
    claims = [Ranking("paper", metric, "a", "b") for metric in ("flipping", "au_mse")]
    up, down = (check(claim, found, chosen, "deleted") for claim in claims)
    assert up.low > 0.8 and down.high < -0.8
    config = recipe.SIZES["quick"]
    bench = Workbench(tmp_path, name="text", config=config)
    monkeypatch.setattr(findings, "CLAIMS", claims)
    write_text_findings(found, chosen, bench)
    rows = bench.sections[0].splitlines()[-2:]
    assert [row.split("|")[-2].strip() for row in rows] == ["holds", "fails"]
