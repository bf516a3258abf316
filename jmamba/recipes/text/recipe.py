"""Which explanations of a sentiment classifier are faithful, and to which words."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jmamba.evaluation import bootstrap_interval
from jmamba.models.vim.model import count_parameters
from jmamba.recipes.text.figures import draw_removal, draw_sentence
from jmamba.recipes.text.findings import (
    METRICS,
    PUBLISHED,
    say_difference,
    write_text_findings,
)
from jmamba.recipes.text.lexicon import Lexicon, derive_lexicon, read_lexicon
from jmamba.recipes.text.methods import all_explanations
from jmamba.recipes.text.scores import score_explanation
from jmamba.recipes.text.sentences import Encoded
from jmamba.recipes.text.sentiment import (
    Corpus,
    TextConfig,
    predict,
    train_classifier,
)
from jmamba.recipes.workbench import Workbench

SIZES = {
    "quick": TextConfig(seeds=(0,), num_layers=2, steps=60, sentences=16),
    "cpu": TextConfig(),
    "large": TextConfig(
        seeds=(0, 1, 2, 3, 4), d_model=128, num_layers=6, steps=2000, sentences=900
    ),
}

VADER = "vader_lexicon.txt"
"""Words rated by people, of the package vaderSentiment; used where the file is."""

Scores = Mapping[str, list[Mapping[str, Any]]]
"""Method -> what `score_explanation` returned with each model."""


def run(config: TextConfig, bench: Workbench) -> None:
    """Train classifiers, explain test sentences and score the explanations."""
    corpus = Corpus(config, bench)
    lexicons = _lexicons(corpus, bench)
    part = corpus.test.take_short(config.words, config.sentences)
    models, scores = [], {}
    for seed in config.seeds:
        model = train_classifier(config, bench, corpus, seed)
        facts = bench.once(f"model-{seed}", lambda m=model: _measure_model(m, corpus))
        models.append([seed, *facts])
        methods = all_explanations(seed)
        for done, (name, explanation) in enumerate(methods.items()):
            bench.show(f"explaining with model {seed}", done, len(methods))
            found = bench.once(
                f"scores-{seed}-{_file_name(name)}",
                lambda e=explanation, m=model: score_explanation(e, m, part, lexicons),
            )
            scores.setdefault(name, []).append(found)
        bench.show(f"explaining with model {seed}", len(methods), len(methods))
    _describe(config, bench, corpus)
    columns = ["seed", "parameters", "validation accuracy", "test accuracy"]
    bench.write_table("Models", columns, models)
    _write_faithfulness(bench, scores)
    write_text_findings(
        {
            metric: {name: stack(found, metric) for name, found in scores.items()}
            for metric in METRICS
        },
        bench,
    )
    _write_agreement(bench, scores, lexicons)
    _write_figures(bench, scores, part, lexicons[-1])


def _lexicons(corpus: Corpus, bench: Workbench) -> list[Lexicon]:
    """Return the lexicons that need nothing of the sentences to be explained."""
    found = [derive_lexicon(corpus.split.train, min_count=5, polar=0.75)]
    folder = bench.data_folder
    if folder is not None and (folder / VADER).exists():
        found.insert(0, read_lexicon(folder / VADER, "VADER"))
    return found


def _measure_model(model, corpus: Corpus) -> list:
    accuracy = [
        float(np.mean(predict(model, part).argmax(axis=1) == part.labels))
        for part in (corpus.validation, corpus.test)
    ]
    return [count_parameters(model), *accuracy]


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name).strip("_")


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
        "logit of the right class, read at `<end>`. Integrated gradients start from "
        "the same sentence with all its words `<unk>`, which is what they become in "
        "flipping, too."
    )


def _write_faithfulness(bench: Workbench, scores: Scores) -> None:
    bench.write_text(
        "AUAC: area under the probability of the right class as words come back into a "
        "sentence of `<unk>`, the most relevant first. AU-MSE: area under the squared "
        "change of both logits as words become `<unk>`, smallest |relevance| first. "
        "ΔA^F: area under the right class's logit as words become `<unk>`, least minus "
        "most relevant first. ΔA^I: the same as words are put into an empty sentence, "
        "most minus least relevant first. Mean over models; in brackets 95 % of "
        "bootstrap samples of sentences."
    )
    rows = []
    for name, found in scores.items():
        paper = PUBLISHED.get(name)
        cells = [_cell(stack(found, metric)) for metric in METRICS]
        rows.append([name, *cells, "" if paper is None else f"{paper:.3f}"])
    count = stack(scores["random"], "flipping").shape[1]
    columns = ["method", *METRICS.values(), "ΔA^F in MambaLRP's paper (SST-2, 130M)"]
    bench.write_table(f"Faithfulness, {count} sentences", columns, rows)


def stack(found: list[Mapping[str, Any]], metric: str) -> np.ndarray:
    """Return a metric of all models and sentences, (seeds, sentences)."""
    return np.array([one[metric] for one in found])


def _cell(values: np.ndarray) -> str:
    """Return the mean over models and sentences that have a value, and its interval."""
    known = ~np.isnan(values).any(axis=0)
    if not known.any():
        return "–"
    return say_difference(bootstrap_interval(np.mean, values[:, known].mean(axis=0)))


def _write_agreement(bench: Workbench, scores: Scores, lexicons: list[Lexicon]) -> None:
    bench.write_text(
        "Polar: chance that a polar word of the lexicon has a larger |relevance| than "
        "another word of its sentence. Sign: share of polar words whose relevance has "
        "the sign that speaks for their polarity. Rank: Spearman's correlation of "
        "signed relevance and polarity over the words in the lexicon. The last two are "
        "left out where relevance is never below 0; where it seldom is, the sign is "
        "right as often as words speak for the class of their sentence. No lexicon is "
        "made of sentences that are explained."
    )
    for lexicon in lexicons:
        rows = []
        for name, found in scores.items():
            signed = any(one["signed"] for one in found)
            agreement = [one["agreement"][lexicon.name] for one in found]
            cells = [
                _cell(stack(agreement, part)) if signed or part == "area" else "–"
                for part in ("area", "sign", "correlation")
            ]
            rows.append([name, *cells])
        words = sum(abs(score) > lexicon.polar for score in lexicon.scores.values())
        title = f"Agreement with the lexicon {lexicon.name}, {words} polar words"
        columns = ["method", "polar ↑", "sign ↑", "rank ↑"]
        bench.write_table(title, columns, rows)


def _write_figures(
    bench: Workbench, scores: Scores, part: Encoded, lexicon: Lexicon
) -> None:
    curves = {
        name: tuple(stack(found, c).mean(axis=0) for c in ("activation", "pruning"))
        for name, found in scores.items()
    }
    bench.write_figure(
        "text-curves",
        draw_removal(curves),
        "Left: probability of the right class as words come back, most relevant first. "
        "Right: squared change of the logits as words go, least relevant first. Mean "
        "over sentences and models.",
    )
    number = _choose_example(part, lexicon)
    relevance = {name: found[0]["relevance"][number] for name, found in scores.items()}
    label = "positive" if part.labels[number] else "negative"
    bench.write_figure(
        "text-example",
        draw_sentence(part.words[number], relevance),
        "The first test sentence of 8 to 14 words, two of them polar, which is "
        f"{label}, by every method with the first model: relevance to the right class "
        "over its largest magnitude in the row.",
    )


def _choose_example(part: Encoded, lexicon: Lexicon) -> int:
    """Return the first sentence that fits a figure, or else the very first."""
    for number, words in enumerate(part.words):
        polar = [abs(lexicon.scores.get(w, 0.0)) > lexicon.polar for w in words]
        if 8 <= len(words) <= 14 and sum(polar) == 2:
            return number
    return 0
