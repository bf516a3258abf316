"""Tables and figures of how faithful explanations of sentences are."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jmamba.evaluation import Comparison, compare_over_seeds
from jmamba.recipes.text.baselines import MODEL_FREE
from jmamba.recipes.text.checks import CHECKS, Checked, write_checks
from jmamba.recipes.text.figures import draw_removal, draw_sentence
from jmamba.recipes.text.lexicon import Lexicon
from jmamba.recipes.text.operators import OPERATORS
from jmamba.recipes.text.readings import READINGS
from jmamba.recipes.text.sentences import Encoded
from jmamba.recipes.workbench import Workbench

METRICS = {"flipping": "ΔA^F ↑", "auac": "AUAC ↑", "au_mse": "AU-MSE ↓"}
"""Metric -> its heading, with an arrow to where it is good."""

Found = Mapping[str, Sequence[Mapping[str, Any]]]
"""Method -> what was measured with each model."""


def stack_metric(
    found: Sequence[Mapping[str, Any]], reading: str, metric: str, removal: str
) -> Float[np.ndarray, "s b"]:
    """Return a metric of all models and sentences."""
    return np.array([_read(one, reading)[metric][removal] for one in found])


def _read(one: Mapping[str, Any], reading: str) -> Mapping[str, Any]:
    """Return the scores of a reading; where it ranks as signs do, they are theirs."""
    return one["readings"].get(reading, one["readings"]["signed"])


def distinct_readings(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the readings that rank words unlike the one with signs, and that one."""
    return [r for r in READINGS if any(r in one["readings"] for one in found)]


def write_faithfulness(
    found: Found, chosen: Mapping[str, str], bench: Workbench
) -> None:
    """Add a table of all methods and readings."""
    bench.write_text(
        "ΔA^F: area under the right class's logit as words are taken out, least minus "
        "most relevant first. AUAC: area under its probability as words come back, the "
        "most relevant first. AU-MSE: area under the squared change of both logits as "
        "words are taken out, smallest |relevance| first. Readings are the relevance "
        "with its sign, where it is positive, and its magnitude, where these differ; "
        "the one with the highest ΔA^F on validation sentences, over both ways of "
        "taking words out, is marked. Mean over models and sentences; in brackets 95 % "
        "of a bootstrap over seeds and sentences, both drawn again."
    )
    rows = []
    for name, of in found.items():
        readings = distinct_readings(of)
        for reading in readings:
            cells = [
                say_interval(
                    compare_over_seeds(
                        np.mean, stack_metric(of, reading, metric, removal)
                    )
                )
                for metric in METRICS
                for removal in OPERATORS
            ]
            mark = "x" if reading == chosen[name] else ""
            label = reading if len(readings) > 1 else "–"
            rows.append([name, label, mark, *cells])
    count = stack_metric(
        found["random"], "signed", "flipping", next(iter(OPERATORS))
    ).shape[1]
    headings = [
        f"{heading} {removal}" for heading in METRICS.values() for removal in OPERATORS
    ]
    columns = ["method", "reading", "chosen", *headings]
    bench.write_table(f"Faithfulness, {count} sentences", columns, rows)


def write_word_checks(
    found: Found, chosen: Mapping[str, str], bench: Workbench
) -> None:
    """Add a table for each way of taking words out.

    They ask whether the ranking comes from the model at all.
    """
    for removal in OPERATORS:
        means = {
            name: stack_metric(found[name], "signed", "flipping", removal).mean()
            for name in MODEL_FREE
        }
        best = max(MODEL_FREE, key=means.__getitem__)
        without = stack_metric(found[best], "signed", "flipping", removal)
        checked = {}
        for name, of in found.items():
            ours = stack_metric(of, chosen[name], "flipping", removal)
            controls = [
                np.array([one[control][removal] for one in of])
                for control in ("random weights", "other class")
            ]
            checked[name] = Checked(
                chosen[name] if len(distinct_readings(of)) > 1 else "–",
                [compare_over_seeds(np.mean, ours - x) for x in (without, *controls)],
            )
        write_checks(f"Sanity checks, ΔA^F {removal}", checked, say_interval, bench)
        bench.write_text(
            "By how much ΔA^F of the marked reading is more than (1) that of the best "
            f"ranking without a model, {best}; (2) that of the same method and reading "
            "of a model with random weights; (3) that of the relevance to the other "
            "class. A check holds where Holm's correction over all "
            f"{len(CHECKS) * len(checked)} differences of the table leaves p below "
            "0.05."
        )


def say_interval(found: Comparison) -> str:
    """Return a score with its interval, with three decimals.

    Examples:
      >>> say_interval(Comparison(0.5, 0.25, 0.75, 0.0))
      '0.500 [0.250, 0.750]'
    """
    return "{:.3f} [{:.3f}, {:.3f}]".format(*found[:3])


def write_agreement(
    found: Found, lexicons: Sequence[Lexicon], bench: Workbench
) -> None:
    """Add a table of agreement with each lexicon."""
    bench.write_text(
        "Polar: chance that a polar word of the lexicon has a larger |relevance| than "
        "another word of its sentence. Sign: share of polar words whose relevance has "
        "the sign that speaks for their polarity. Rank: Spearman's correlation of "
        "signed relevance and polarity over the words in the lexicon. The last two are "
        "left out where relevance is never below 0; where it seldom is, the sign is "
        "right as often as words speak for the class of their sentence. No lexicon is "
        "made of sentences that are explained. A lexicon is no measure of what a model "
        "goes by."
    )
    for lexicon in lexicons:
        rows = []
        for name, of in found.items():
            signed = any(one["signed"] for one in of)
            agreement = [one["agreement"][lexicon.name] for one in of]
            cells = [
                _agreement(agreement, part) if signed or part == "area" else "–"
                for part in ("area", "sign", "correlation")
            ]
            rows.append([name, *cells])
        words = sum(abs(score) > lexicon.polar for score in lexicon.scores.values())
        title = f"Agreement with the lexicon {lexicon.name}, {words} polar words"
        columns = ["method", "polar ↑", "sign ↑", "rank ↑"]
        bench.write_table(title, columns, rows)


def _agreement(agreement: list[Mapping[str, list[float]]], part: str) -> str:
    """Return the mean over models and sentences that have a value, and its interval."""
    values = np.array([one[part] for one in agreement])
    known = values[:, ~np.isnan(values).any(axis=0)]
    if known.shape[1] < 2:
        return "–"
    return say_interval(compare_over_seeds(np.mean, known))


def write_figures(
    found: Found,
    chosen: Mapping[str, str],
    part: Encoded,
    lexicon: Lexicon,
    bench: Workbench,
) -> None:
    """Add curves of removal, and the words of a sentence."""
    removal = next(iter(OPERATORS))
    curves = {
        name: tuple(
            stack_metric(of, chosen[name], curve, removal).mean(axis=0)
            for curve in ("activation", "pruning")
        )
        for name, of in found.items()
    }
    bench.write_figure(
        "text-curves",
        draw_removal(curves),
        f"Left: probability of the right class as words come back for {removal}, most "
        f"relevant first. Right: squared change of the logits as words become "
        f"{removal}, least relevant first. Readings chosen on validation sentences; "
        "mean over sentences and models.",
    )
    number = _choose_example(part, lexicon)
    relevance = {name: of[0]["relevance"][number] for name, of in found.items()}
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
