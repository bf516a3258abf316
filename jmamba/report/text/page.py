"""The page of a text's explanation, and its folder."""

from html import escape

from jmamba.figures.labels import isolate, visible
from jmamba.report.display import register_writer
from jmamba.report.folder import Writer, describe_arrays
from jmamba.report.page import (
    code,
    colophon,
    document,
    figure_section,
    prediction_rows,
    quoted,
)
from jmamba.report.plate import ALPHA
from jmamba.report.predictions import Predictions
from jmamba.report.text.explanation import Explanation
from jmamba.report.text.plates import text_plates_of
from jmamba.report.text.shown import view_of
from jmamba.report.view.view import (
    render_fragment,
    render_view,
    view_script,
    view_style,
)

INTRO = f"""<p>Hidden attention: <span class="formula">{ALPHA}</span></p>
<p>Shares divide a layer's mean |α| over channels by its sum over tokens read.</p>"""
"""What the footer of an explanation says first."""


def text_page(explanation: Explanation, figures: dict[str, bytes]) -> str:
    """Return the page of an explanation.

    Args:
      explanation: what to show.
      figures: PNG files by the name of their plate.
    """
    best = explanation.predictions
    title = f"{isolate(visible(explanation.text[:60]))} → {isolate(best.labels[0])}"
    plates = [
        figure_section(plate, figures[plate.name], explanation)
        for plate in text_plates_of(explanation)
        # The table of the page says the same as the picture of the predictions.
        if plate.name in figures and plate.name != "predictions"
    ]
    body = f"""{_text_section(explanation)}
{_tables(explanation)}
<section>
<h2>Figures</h2>
{"".join(plates)}
</section>
{colophon(explanation, INTRO, {"tokens": len(explanation.ids)})}"""
    return document(title, body, view_style(), view_script())


def text_fragment(explanation: Explanation) -> str:
    """Return the view of an explanation and its heading, to stand in a notebook."""
    return render_fragment(
        text_heading(explanation, "p") + render_view(view_of(explanation))
    )


def text_summary(explanation: Explanation, files: list[str]) -> dict:
    """Return what was run and what came out, ready for JSON."""
    names = zip(explanation.ids.tolist(), explanation.labels, strict=True)
    return {
        "made_by": "jmamba explain",
        "model": explanation.model,
        "text": explanation.text,
        "tokens": [{"id": i, "label": label} for i, label in names],
        "pieces": [piece._asdict() for piece in explanation.pieces],
        "words": _words(explanation),
        "predictions": _listed(explanation.predictions),
        "explained": _listed(explanation.question),
        "groups": list(explanation.groups),
        "settings": explanation.settings,
        "environment": explanation.environment,
        "seconds": explanation.timings,
        "arrays": describe_arrays(explanation),
        "files": files,
    }


def _words(explanation: Explanation) -> list[dict]:
    """Return the words, with the relevance of each by every method."""
    by = {name: explanation.by_word(v) for name, v in explanation.relevance.items()}
    return [
        {**word._asdict(), "relevance": {name: float(v[i]) for name, v in by.items()}}
        for i, word in enumerate(explanation.words)
    ]


def _listed(outcomes: Predictions) -> list[dict]:
    columns = zip(outcomes.ids, outcomes.probabilities, outcomes.labels, strict=True)
    return [
        {"id": int(i), "label": label, "probability": float(p)}
        for i, p, label in columns
    ]


def _text_section(explanation: Explanation) -> str:
    return f"""<header>
<p class="kicker">jmamba explain · {escape(explanation.model)}</p>
{text_heading(explanation, "h1")}
</header>
{render_view(view_of(explanation))}"""


def text_heading(explanation: Explanation, tag: str) -> str:
    """Return what the model predicts and what is asked, as HTML.

    Args:
      explanation: of a text.
      tag: of the first line.
    """
    best = explanation.predictions
    return f"""<{tag}>After this text the {best.kind.one} is {quoted(best.labels[0])}
<small>{100 * best.probabilities[0]:.1f} % sure</small></{tag}>
{_question(explanation)}"""


def _question(explanation: Explanation) -> str:
    """Return what is asked, if it is not why the likeliest token comes."""
    asked = explanation.question
    if len(asked.ids) == 1 and asked.ids[0] == explanation.predictions.ids[0]:
        return ""
    shown = " rather than ".join(
        f"{quoted(label)} ({100 * p:.2g} %)"
        for label, p in zip(asked.labels, asked.probabilities, strict=True)
    )
    return f"<p>Asked here: why {shown}?</p>"


def _tables(explanation: Explanation) -> str:
    best = explanation.predictions
    drivers, labels = explanation.drivers, explanation.piece_labels
    relevance = explanation.by_piece(explanation.relevance[explanation.method])
    share = 100 * explanation.by_piece(explanation.mean_share)
    strongest = "".join(
        f"<tr><td>{code(labels[i])}</td>"
        f"<td class=number>{explanation.pieces[i].start}</td>"
        f"<td class=number>{drivers[i]:+.2f}</td>"
        f"<td class=number>{relevance[i]:+.2g}</td>"
        f"<td class=number>{share[i]:.1f} %</td></tr>"
        for i in explanation.listed
    )
    return f"""<div class="columns">
<section><h2>Likeliest {best.kind.several}</h2>
<table><thead><tr><th>{best.kind.one}</th><th class=number>number</th>
<th class=number>probability</th><td></td></tr></thead>
<tbody>{prediction_rows(best)}</tbody></table></section>
<section><h2>Tokens that drove {escape(explanation.explained)} most</h2>
<table><thead><tr><th>token</th><th class=number>position</th>
<th class=number>bits lost without the token</th>
<th class=number>{explanation.method.replace("_", " ")}</th>
<th class=number>last token's attention</th></tr></thead>
<tbody>{strongest}</tbody></table></section>
</div>"""


write_text = register_writer(
    Explanation,
    Writer("jmamba-out", text_plates_of, text_page, text_summary, text_fragment),
)
"""Writes the explanation of a text."""
