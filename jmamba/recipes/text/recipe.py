"""Which explanations of a sentiment classifier are faithful, and to which words."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from jmamba.attention import estimate_smooth_grad
from jmamba.models.mamba.model import MambaLM
from jmamba.models.vim.model import count_parameters
from jmamba.recipes.text.baselines import MODEL_FREE, model_free
from jmamba.recipes.text.checks import UNTRAINED
from jmamba.recipes.text.findings import write_text_findings
from jmamba.recipes.text.lexicon import Lexicon, derive_lexicon, read_lexicon
from jmamba.recipes.text.methods import all_explanations, ask_at_end, explain_all
from jmamba.recipes.text.readings import READINGS, choose_reading
from jmamba.recipes.text.scores import (
    agree_with,
    flip_words,
    read_in_all_ways,
    score_ranks,
)
from jmamba.recipes.text.sentences import Encoded
from jmamba.recipes.text.sentiment import (
    Corpus,
    TextConfig,
    predict,
    train_classifier,
)
from jmamba.recipes.text.tables import (
    Found,
    write_agreement,
    write_faithfulness,
    write_figures,
    write_word_checks,
)
from jmamba.recipes.workbench import Workbench, part_name
from jmamba.training.language import new_model

SIZES = {
    "quick": TextConfig(
        seeds=(0, 1), num_layers=2, steps=60, sentences=16, chosen_by=8
    ),
    "cpu": TextConfig(),
    "large": TextConfig(
        seeds=tuple(range(10)), d_model=128, num_layers=6, steps=2000, sentences=900,
        chosen_by=300, words=30,
    ),
}  # fmt: skip

VADER = "vader_lexicon.txt"
"""Words rated by people, of the package vaderSentiment; used where the file is."""


def run(config: TextConfig, bench: Workbench) -> None:
    """Train classifiers, explain sentences, choose readings, score the explanations."""
    corpus = Corpus(config, bench)
    lexicons = _lexicons(corpus, bench)
    models = [train_classifier(config, bench, corpus, seed) for seed in config.seeds]
    facts = []
    for seed, model in zip(config.seeds, models, strict=True):
        part = corpus.test.take_short(config.words, config.sentences)
        measure = partial(_measure_model, model, corpus, part)
        facts.append([seed, *_say_facts(bench.once(f"model-{seed}", measure))])
    chosen = _choose_readings(config, bench, corpus, models)
    found = _score_all(config, bench, corpus, models, chosen, lexicons)
    _describe(config, bench, corpus)
    columns = ["seed", "parameters", "validation accuracy", "test accuracy",
               "error of SmoothGrad"]  # fmt: skip
    bench.write_table("Models", columns, facts)
    write_faithfulness(found, chosen, bench)
    write_word_checks(found, chosen, bench)
    write_text_findings(found, chosen, bench)
    write_agreement(found, lexicons, bench)
    part = corpus.test.take_short(config.words, config.sentences)
    write_figures(found, chosen, part, lexicons[-1], bench)


def _choose_readings(config, bench, corpus: Corpus, models) -> dict[str, str]:
    """Return method -> the reading that flips validation sentences best.

    What counts is the mean over models and ways of taking words out.
    """
    part = corpus.validation.take_short(config.words, config.chosen_by)
    scores: dict[str, dict[str, list]] = {}
    for seed, model in zip(config.seeds, models, strict=True):
        methods = _methods(corpus, seed)
        for done, (name, explanation) in enumerate(methods.items()):
            bench.show(f"choosing readings with model {seed}", done, len(methods))
            found = bench.once(
                f"validation-{seed}-{part_name(name)}",
                partial(_flip_readings, explanation, model, part, name in MODEL_FREE),
            )
            for reading in READINGS:
                flipped = found.get(reading, found["signed"])
                of = scores.setdefault(name, {}).setdefault(reading, [])
                of.append(list(flipped.values()))
        bench.show(f"choosing readings with model {seed}", len(methods), len(methods))
    return {
        name: choose_reading({r: np.array(v) for r, v in of.items()})
        for name, of in scores.items()
    }


def _methods(corpus: Corpus, seed: int) -> dict:
    free = model_free(corpus.train, len(corpus.vocabulary), seed)
    return {**free, **all_explanations()}


def _flip_readings(explanation, model, part: Encoded, as_it_is: bool) -> dict:
    relevance = explain_all(explanation, model, part)
    readings = {"signed": relevance} if as_it_is else read_in_all_ways(relevance)
    return {name: flip_words(model, part, ranks) for name, ranks in readings.items()}


def _score_all(
    config, bench, corpus: Corpus, models, chosen: Mapping[str, str], lexicons
) -> Found:
    """Return method -> what was measured with each model."""
    part = corpus.test.take_short(config.words, config.sentences)
    found: dict[str, list] = {}
    for seed, model in zip(config.seeds, models, strict=True):
        other = new_model(model.config, seed + UNTRAINED)
        methods = _methods(corpus, seed)
        for done, (name, explanation) in enumerate(methods.items()):
            bench.show(f"explaining with model {seed}", done, len(methods))
            score = partial(
                _score, explanation, model, other, part, chosen[name], lexicons,
                name in MODEL_FREE,
            )  # fmt: skip
            scores = bench.once(f"scores-{seed}-{part_name(name)}", score)
            found.setdefault(name, []).append(scores)
        bench.show(f"explaining with model {seed}", len(methods), len(methods))
    return found


def _score(
    explanation, model, other, part: Encoded, chosen: str, lexicons, as_it_is: bool
) -> dict[str, Any]:
    relevance = explain_all(explanation, model, part)
    readings = {"signed": relevance} if as_it_is else read_in_all_ways(relevance)
    against = part._replace(labels=1 - part.labels)
    controls = {
        "random weights": explain_all(explanation, other, part),
        "other class": explain_all(explanation, model, against),
    }
    return {
        "readings": {r: score_ranks(model, part, x) for r, x in readings.items()},
        **{
            name: flip_words(model, part, read_in_all_ways(x).get(chosen, x))
            for name, x in controls.items()
        },
        "agreement": agree_with(lexicons, part, relevance),
        "signed": bool((relevance < 0).any()),
        "relevance": [
            [float(f"{value:.4g}") for value in row[:count]]
            for row, count in zip(relevance, part.query, strict=True)
        ],
    }


def _lexicons(corpus: Corpus, bench: Workbench) -> list[Lexicon]:
    """Return the lexicons that need nothing of the sentences to be explained."""
    found = [derive_lexicon(corpus.split.train, min_count=5, polar=0.75)]
    folder = bench.data_folder
    if folder is not None and (folder / VADER).exists():
        found.insert(0, read_lexicon(folder / VADER, "VADER"))
    return found


def _measure_model(model: MambaLM, corpus: Corpus, part: Encoded) -> list:
    """Return parameters, accuracies and SmoothGrad's error."""
    accuracy = [
        float(np.mean(predict(model, one).argmax(axis=1) == one.labels))
        for one in (corpus.validation, corpus.test)
    ]
    relevance, error = map(np.asarray, ask_at_end(estimate_smooth_grad, model, part))
    share = error[part.present].mean() / np.abs(relevance[part.present]).mean()
    return [count_parameters(model), *accuracy, float(share)]


def _say_facts(facts: list) -> list[str]:
    count, *shares = facts
    return [f"{count:,}", *(f"{100 * share:.1f} %" for share in shares)]


def _describe(config: TextConfig, bench: Workbench, corpus: Corpus) -> None:
    split = corpus.split
    bench.write_text(
        "A Mamba reads the words of a sentence and `<end>`; the next token, "
        "`<negative>` or `<positive>`, is its class. Sentences of movie reviews whose "
        f"mean rating is at least {config.threshold:g} from 0 (of -4 to 4), split "
        f"80 : 10 : 10 once for all: {len(split.train)} to train on, "
        f"{len(split.validation)} to choose with, {len(split.test)} to test, of which "
        f"the first {config.sentences} of at most {config.words} words are explained. "
        f"{len(corpus.vocabulary)} tokens; "
        "other words are `<unk>`, and so are up to "
        f"{config.most_dropped:.0%} of a training sentence's words. Explained is the "
        "logit of the right class, read at `<end>`. Words are taken out in two ways: "
        "they become `<unk>`, or they are deleted. Integrated gradients start from "
        "neither, but from `<pad>` in place of all words, and pieces of the way are "
        "halved until 1 % of the change is missed at most. The error of SmoothGrad is "
        "its mean "
        "Monte-Carlo error over its mean magnitude."
    )
