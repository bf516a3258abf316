"""Sentences whose deciding word is known, and what is said of who finds it."""

import dataclasses
from functools import partial

import numpy as np
import pytest

from jmamba.evaluation import compare_over_seeds
from jmamba.models.mamba.config import MambaConfig
from jmamba.recipes.planted_text import findings, recipe
from jmamba.recipes.planted_text.tasks import (
    CUES,
    KEY,
    NEUTRAL,
    POLAR,
    TASKS,
    TOKENS,
    plant,
)
from jmamba.recipes.text.baselines import model_free
from jmamba.recipes.text.methods import all_explanations
from jmamba.recipes.workbench import Workbench
from jmamba.training.language import new_model

TASK = pytest.mark.parametrize("task", TASKS)


@TASK
def test_planted_words_decide(task):
    planted = plant(task, 200, seed=3)
    tokens, labels = planted.encoded.tokens, planted.encoded.labels
    gold = tokens[planted.gold]
    assert len(gold) == 200
    words = POLAR if task == "keyed" else CUES
    assert all(word in words[label] for word, label in zip(gold, labels, strict=True))
    of_class = [np.isin(tokens, words) for words in POLAR]
    counts = np.stack([of.sum(axis=1) for of in of_class], axis=1)
    if task == "keyed":
        rows, places = np.nonzero(tokens == KEY)
        assert planted.gold[rows, places + 1].all() and len(rows) == 200
        assert (counts == 2).all()
    else:
        assert (counts[np.arange(200), 1 - labels] == 3).all()
    assert (planted.gold <= planted.ranked).all()
    assert (planted.ranked <= planted.encoded.present).all()


@TASK
def test_words_are_equally_frequent_in_training(task):
    train = plant(task, 4000, seed=0, train=True).encoded
    counts = np.bincount(train.tokens[train.present], minlength=TOKENS)
    used = np.concatenate([POLAR.ravel(), NEUTRAL[:27] if task == "keyed" else NEUTRAL,
                           *([] if task == "keyed" else [CUES.ravel()])])  # fmt: skip
    assert counts.sum() == counts[used].sum() + counts[KEY]
    # 4000 sentences: a count is within 5 deviations of the mean, and 10 % of it
    assert abs(counts[used] / counts[used].mean() - 1).max() < 0.1 + 5 / np.sqrt(1000)


def test_corpus_alone_finds_the_shortcut_but_not_the_keyed_word():
    """Sentences of both classes have the same words, but for cues."""
    found = {}
    unread = new_model(MambaConfig(vocab_size=TOKENS, d_model=8, num_layers=1), 0)
    for task in TASKS:
        train = plant(task, 4000, seed=0, train=True).encoded
        ranking = model_free(train, TOKENS, 0)["polarity of words"]
        scores = recipe.score_words(ranking, unread, plant(task, 100, seed=2), True)
        found[task] = np.mean(scores["signed"]["first"])
    assert found["shortcut"] == 1
    assert found["keyed"] < 0.2


def test_recipe_runs_to_its_tables_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "TASKS", {"shortcut": TASKS["shortcut"]})
    names = all_explanations()
    cheap = dict.fromkeys(names, names["embedding norm"])
    monkeypatch.setattr(recipe, "all_explanations", lambda: cheap)
    few = partial(compare_over_seeds, resamples=9)
    monkeypatch.setattr(findings, "compare_over_seeds", few)
    config = dataclasses.replace(
        recipe.SIZES["quick"], d_model=8, num_layers=1, steps=11, batch=2,
        training=20, validation=4, test=6,
    )  # fmt: skip

    def make():
        bench = Workbench(tmp_path / "out", name="planted-text", config=config)
        recipe.run(config, bench)
        return bench.finish().read_text()

    text = make()
    for part in ("shortcut: where the deciding word ranks", "| mamba_lrp | – | x |",
                 "shortcut: sanity checks", "shortcut-example.png"):  # fmt: skip
        assert part in text
    assert make() == text


def test_found_words_pass_their_checks(tmp_path):
    """A method that finds the word for its class alone, and one that finds none."""
    rng = np.random.default_rng(0)

    def measured(share):
        hits = (rng.random((5, 60)) < share).astype(float)
        return [{"first": row.tolist(), "auc": row.tolist()} for row in hits]

    def method(*shares):
        splits = ("validation", "test", *findings.SPLITS)
        each = [measured(share) for share in shares]
        return [
            {split: {"signed": of[s]} for split, of in zip(splits, each, strict=True)}
            for s in range(5)
        ]

    scores = {name: method(0.1, 0.1, 0.1, 0.1) for name in findings.MODEL_FREE}
    scores["finds"] = method(0.9, 0.9, 0.1, 0.1)
    bench = Workbench(tmp_path, name="planted-text", config=recipe.SIZES["quick"])
    findings.write_found("keyed", scores, bench)
    (checks,) = [part for part in bench.sections if "sanity checks" in part]
    *others, finds = checks.strip().splitlines()[4:]
    assert finds.endswith("| 3 of 3 |") and len(others) == 6
    assert all(row.endswith("| 0 of 3 |") for row in others)
