"""The page of a text's explanation, and its folder."""

import base64
import json
from html import escape

import numpy as np

from jmamba.figures.labels import BLANKS, isolate, visible
from jmamba.report.display import register_writer
from jmamba.report.folder import Writer, describe_arrays
from jmamba.report.page import (
    code,
    colophon,
    document,
    figure_section,
    prediction_rows,
    quoted,
    resource,
)
from jmamba.report.plate import ALPHA
from jmamba.report.predictions import Predictions
from jmamba.report.text.explanation import Explanation, shares
from jmamba.report.text.plates import text_plates_of

MATRIX_BYTES = 4 * 2**20
"""Attention matrices beyond this size stay in arrays.npz: pages must open fast."""


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
    script = json.dumps(page_data(explanation)).replace("<", "\\u003c")
    body = f"""{_text_section(explanation)}
{_tables(explanation)}
<section>
<h2>Figures</h2>
{"".join(plates)}
</section>
{colophon(explanation, INTRO, {"tokens": len(explanation.ids)})}"""
    return document(
        title,
        body,
        f"""<div id="tip" role="status" hidden></div>
<script type="application/json" id="data">{script}</script>
<script>
{resource("page.js")}</script>
""",
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


def page_data(explanation: Explanation) -> dict:
    """Return the numbers behind the shaded text, one entry per piece.

    `rows` holds attention shares as unsigned 16-bit integers (65535 is 1), base64:
    per layer the lower triangle of (piece, piece), or only the last row if the
    triangle would make the page slow to open (`full` says which).
    """
    ends = np.array([piece.stop - 1 for piece in explanation.pieces])
    count, layers = len(ends), len(explanation.last_attention)
    entries = layers * count * (count + 1) // 2
    full = explanation.attention is not None and 2 * entries <= MATRIX_BYTES
    if full:
        assert explanation.attention is not None
        by_piece = explanation.by_piece(explanation.attention[:, ends])
        rows = shares(by_piece)[:, *np.tril_indices(count)]
    else:
        rows = explanation.by_piece(explanation.layer_shares)
    packed = np.round(rows * 65535).astype("<u2")
    relevance = {
        name.replace("_", " "): explanation.by_piece(values).tolist()
        for name, values in explanation.relevance.items()
    }
    return {
        "pieces": [visible(text) for text, _, _ in explanation.pieces],
        "spans": [[start, stop] for _, start, stop in explanation.pieces],
        "left_out": [_short(value) for value in explanation.drivers.tolist()],
        "relevance": {k: [_short(x) for x in v] for k, v in relevance.items()},
        "layers": layers,
        "full": full,
        "rows": base64.b64encode(packed.tobytes()).decode(),
        "explained": explanation.explained,
    }


def _short(value: float) -> float | None:
    """Return a number with four digits, None for one that is not known."""
    return None if np.isnan(value) else float(f"{value:.4g}")


def _text_section(explanation: Explanation) -> str:
    best = explanation.predictions
    drivers = np.nan_to_num(explanation.drivers)
    largest = float(np.abs(drivers).max()) or 1.0
    labels, spans = explanation.piece_labels, []
    for i, ((text, _, _), value) in enumerate(
        zip(explanation.pieces, drivers, strict=True)
    ):
        kind = "toward" if value >= 0 else "against"
        weight = np.sqrt(abs(value) / largest)  # so that weak ones show
        spans.append(
            f'<span class="token {kind}" data-i="{i}" style="--w:{weight:.3f}">'
            f"{_shown(text, labels[i])}</span>"
        )
    last = len(explanation.last_attention)
    methods = "".join(
        f'<label><input type="radio" name="mode" value="{name.replace("_", " ")}"> '
        f"{name.replace('_', ' ')}</label>\n"
        for name in explanation.relevance
    )
    return f"""<header>
<p class="kicker">jmamba explain · {escape(explanation.model)}</p>
<h1>After this text the model expects
{quoted(best.labels[0])}
<small>{100 * best.probabilities[0]:.1f} % sure</small></h1>
{_question(explanation)}
</header>
<section aria-label="The text">
<form id="controls" hidden>
<fieldset><legend>Shade tokens by</legend>
<label><input type="radio" name="mode" value="left_out" checked>
leaving each out</label>
{methods}<label><input type="radio" name="mode" value="attention">
hidden attention</label>
</fieldset>
<div id="attention-controls" hidden>
<label for="layer">Layer</label>
<input type="range" id="layer" min="0" max="{last}" value="0">
<output id="layer-name" for="layer">mean of all</output>
<button type="button" id="reset">read from the last token</button>
</div>
</form>
<div id="text" dir="auto">{"".join(spans)}<bdi class="next">{
        escape(best.labels[0])
    }</bdi></div>
<p class="legend" id="legend"><span class="swatch toward"></span> spoke for
{quoted(explanation.explained)} <span class="swatch against"></span> spoke against it
<span id="strongest">(strongest: {largest:.3g} bits)</span>. The dashed box is the
prediction.</p>
</section>"""


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


def _shown(text: str, label: str) -> str:
    """Return the HTML of a piece: as it reads, but nothing invisible."""
    if not text:
        return f"<i>{escape(label)}</i>"
    lines = (escape(visible(line, keep=" ")) for line in text.split("\n"))
    return (BLANKS["\n"] + "<br>").join(lines)


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
        for i in explanation.strongest(len(best.ids))
    )
    return f"""<div class="columns">
<section><h2>Likeliest next tokens</h2>
<table><thead><tr><th>token</th><th class=number>id</th>
<th class=number>probability</th><th></th></tr></thead>
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
    Writer("jmamba-out", text_plates_of, text_page, text_summary),
)
"""Writes the explanation of a text."""
