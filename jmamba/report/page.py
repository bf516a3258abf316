"""The report as one HTML page that needs nothing but itself."""

import base64
import json
from html import escape
from importlib import resources
from typing import Any

import numpy as np

from jmamba.report.labels import BROKEN, visible
from jmamba.report.text.explanation import Explanation, Predictions, shares
from jmamba.report.text.plates import ALPHA, PLATES, Plate

MATRIX_BYTES = 4 * 2**20
"""Attention matrices beyond this size stay in arrays.npz: pages must open fast."""


INTRO = f"""<p>Hidden attention: <span class="formula">{ALPHA}</span></p>
<p>Shares divide a layer's mean |α| over channels by its sum over tokens read.</p>"""
"""What the footer of an explanation says first."""


def page(explanation: Explanation, figures: dict[str, bytes]) -> str:
    """Return the page of an explanation.

    Args:
      explanation: what to show.
      figures: PNG files by the name of their plate.
    """
    best = explanation.predictions
    title = f"{visible(explanation.text[:60])} → {best.labels[0]}"
    plates = [
        figure_section(plate, figures[plate.name])
        for plate in PLATES
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


def document(title: str, body: str, scripts: str = "") -> str:
    """Return a whole page in the reports' look.

    Args:
      title: of the window.
      body: HTML inside of the page's column.
      scripts: HTML behind it.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)} · jmamba</title>
<style>
{resource("page.css")}</style>
</head>
<body>
<main>
{body}
</main>
{scripts}</body>
</html>
"""


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
    gradient = explanation.by_piece(explanation.gradient_input)
    return {
        "pieces": [visible(text) for text, _, _ in explanation.pieces],
        "spans": [[start, stop] for _, start, stop in explanation.pieces],
        "left_out": [_short(value) for value in explanation.drivers.tolist()],
        "gradient": [_short(value) for value in gradient.tolist()],
        "layers": layers,
        "full": full,
        "rows": base64.b64encode(packed.tobytes()).decode(),
        "best": explanation.predictions.labels[0],
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
    return f"""<header>
<p class="kicker">jmamba explain · {escape(explanation.model)}</p>
<h1>After this text the model expects
<q class="best">{escape(best.labels[0])}</q>
<small>{100 * best.probabilities[0]:.1f} % sure</small></h1>
</header>
<section aria-label="The text">
<form id="controls" hidden>
<fieldset><legend>Shade tokens by</legend>
<label><input type="radio" name="mode" value="left_out" checked>
leaving each out</label>
<label><input type="radio" name="mode" value="gradient"> gradient × input</label>
<label><input type="radio" name="mode" value="attention"> hidden attention</label>
</fieldset>
<div id="attention-controls" hidden>
<label for="layer">Layer</label>
<input type="range" id="layer" min="0" max="{last}" value="0">
<output id="layer-name" for="layer">mean of all</output>
<button type="button" id="reset">read from the last token</button>
</div>
</form>
<div id="text">{"".join(spans)}<span class="next">{escape(best.labels[0])}</span></div>
<p class="legend" id="legend"><span class="swatch toward"></span> spoke for
<q>{escape(best.labels[0])}</q> <span class="swatch against"></span> spoke against it
<span id="strongest">(strongest: {largest:.3g} bits)</span>. The dashed box is the
prediction.</p>
</section>"""


def _shown(text: str, label: str) -> str:
    """Return the HTML of a piece: as it reads, but nothing invisible."""
    if not text or BROKEN in text:
        return f"<i>{escape(label)}</i>"
    shown = (c if c == " " else visible(c) for c in text)
    return "".join(
        "↵<br>" if c == "↵" and raw == "\n" else escape(c)
        for c, raw in zip(shown, text, strict=True)
    )


def _tables(explanation: Explanation) -> str:
    best = explanation.predictions
    drivers, labels = explanation.drivers, explanation.piece_labels
    gradient = explanation.by_piece(explanation.gradient_input)
    share = 100 * explanation.by_piece(explanation.mean_share)
    strongest = "".join(
        f"<tr><td><code>{escape(labels[i])}</code></td>"
        f"<td class=number>{explanation.pieces[i].start}</td>"
        f"<td class=number>{drivers[i]:+.2f}</td>"
        f"<td class=number>{gradient[i]:+.2g}</td>"
        f"<td class=number>{share[i]:.1f} %</td></tr>"
        for i in explanation.strongest(len(best.ids))
    )
    return f"""<div class="columns">
<section><h2>Likeliest next tokens</h2>
<table><thead><tr><th>token</th><th class=number>id</th>
<th class=number>probability</th><th></th></tr></thead>
<tbody>{prediction_rows(best)}</tbody></table></section>
<section><h2>Tokens that drove it most</h2>
<table><thead><tr><th>token</th><th class=number>position</th>
<th class=number>bits lost without it</th>
<th class=number>gradient × input</th>
<th class=number>last token's attention</th></tr></thead>
<tbody>{strongest}</tbody></table></section>
</div>"""


def prediction_rows(best: Predictions) -> str:
    """Return the rows of a table of predictions."""
    return "".join(
        f"<tr><td><code>{escape(label)}</code></td><td class=number>{i}</td>"
        f"<td class=number>{100 * p:.2f} %</td>"
        f'<td class=bar><i style="width:{100 * p:.1f}%"></i></td></tr>'
        for i, p, label in zip(best.ids, best.probabilities, best.labels, strict=True)
    )


def figure_section(plate: Plate, png: bytes) -> str:
    """Return a picture with its caption, formula and the names of its arrays."""
    source = base64.b64encode(png).decode()
    arrays = ", ".join(f"<code>{escape(name)}</code>" for name in plate.arrays)
    return f"""<figure id="{plate.name}">
<h3>{escape(plate.title)}</h3>
<figcaption>{escape(plate.caption)}
<span class="formula">{escape(plate.formula)}</span></figcaption>
<div class="picture"><img alt="{escape(plate.title)}"
src="data:image/png;base64,{source}"></div>
<p class="source">Numbers: {arrays} in <a href="arrays.npz">arrays.npz</a> ·
<a href="{plate.name}.png">picture alone</a></p>
</figure>
"""


def colophon(report: Any, intro: str, subject: dict[str, Any]) -> str:
    """Return how a report was made: settings, machine, versions, times.

    Args:
      report: an `Explanation`, an `ImageExplanation` or a `DynamicsReport`.
      intro: what stands above, as HTML.
      subject: what the report is about, by name, such as the number of tokens.
    """
    environment = dict(report.environment)
    versions = environment.pop("versions", {})
    seconds = {stage: f"{time} s" for stage, time in report.timings.items()}
    groups = {
        "Settings": {"model": report.model} | subject | report.settings,
        "Made on": environment,
        "Versions": versions,
        "Time": seconds,
    }
    lists = "".join(
        f"<section><h3>{name}</h3><dl>{definitions(group)}</dl></section>"
        for name, group in groups.items()
        if group
    )
    return f"""<footer>
<h2>How this was made</h2>
{intro}
<p>All arrays are in <a href="arrays.npz">arrays.npz</a>, all settings in
<a href="summary.json">summary.json</a>.</p>
<div class="columns">{lists}</div>
</footer>"""


def definitions(group: dict) -> str:
    """Return the entries of a definition list."""
    return "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in group.items()
    )


def resource(name: str) -> str:
    """Return a file that lies beside this module."""
    return resources.files("jmamba.report").joinpath(name).read_text(encoding="utf-8")
