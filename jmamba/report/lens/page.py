"""The page of a lens, and its folder."""

from html import escape

import numpy as np

from jmamba.figures.labels import isolate, visible
from jmamba.report.display import register_writer
from jmamba.report.folder import Writer, describe_arrays
from jmamba.report.lens.measure import LensReport
from jmamba.report.lens.plates import LENS_PLATES
from jmamba.report.page import (
    code,
    colophon,
    document,
    figure_section,
    quoted,
    wide,
)
from jmamba.report.view.maps import Series, name_layers
from jmamba.report.view.view import (
    TokenView,
    render_fragment,
    render_view,
    view_script,
    view_style,
)
from jmamba.report.words import quote

INTRO = """<p>The logit lens reads the residual stream behind a layer as if it were the
last (nostalgebraist, 2020); a tuned lens translates it first, by an affine map that was
trained to say what the model says (Belrose et al., arXiv 2303.08112). Layers that keep
what they know in other directions look ignorant to the former.</p>"""
"""What the footer says first."""

CELLS = 20_000
"""Most cells of the table of all layers and tokens: pages must open fast."""


def lens_page(report: LensReport, figures: dict[str, bytes]) -> str:
    """Return the page of a lens; it needs nothing but itself."""
    title = f"Lens: {isolate(visible(report.text[:60]))}"
    plates = [figure_section(p, figures[p.name], report) for p in LENS_PLATES]
    best = report.predictions
    body = f"""<header>
<p class="kicker">jmamba lens · {escape(report.model)} · {report.lens}</p>
<h1>After this text the {best.kind.one} is {quoted(best.labels[0])}
<small>{100 * best.probabilities[0]:.1f} % sure</small></h1>
<p>{escape(report.verdict[0].upper() + report.verdict[1:])}.</p>
</header>
{render_view(lens_view(report))}
<section>
<h2>Layers</h2>
{_layer_table(report)}
{_token_table(report)}
</section>
<section>
<h2>Figures</h2>
{"".join(plates)}
</section>
{colophon(report, INTRO, {"tokens": len(report.ids)})}"""
    return document(title, body, view_style(), view_script())


def lens_view(report: LensReport) -> TokenView:
    """Return the view of a lens: how far each layer is from the model, and its word."""
    ends = [piece.stop - 1 for piece in report.pieces]
    far = Series(
        "from the model",
        np.maximum(np.asarray(report.reading.divergence)[:, ends], 0),  # rounding
        "bits",
        "far from what the model says after the token",
        layers=name_layers(report.layers),
        words=_words(report, ends),
    )
    behind = far._replace(
        name="rank of the model's token",
        values=np.asarray(report.reading.rank, np.float32)[:, ends],
        unit="",
        toward="tokens that are likelier here than the model's",
        words=(),
    )
    best = report.predictions.labels[0]
    labels = report.piece_labels
    return TokenView("The text", report.pieces, labels, [far, behind], after=best)


def _words(report: LensReport, tokens: list[int]) -> list[list[str]]:
    """Return what each layer says after each of some tokens, in words."""
    shares = 100 * np.asarray(report.reading.probabilities)[..., 0]
    return [
        [f"{report.lens}: {quote(row[i][0])} {p[i]:.1f} % next" for i in tokens]
        for row, p in zip(report.top_labels, shares, strict=True)
    ]


def lens_fragment(report: LensReport) -> str:
    """Return the view of a lens, to stand in a notebook."""
    return render_fragment(render_view(lens_view(report)))


def lens_summary(report: LensReport, files: list[str]) -> dict:
    """Return what was run and what came out, ready for JSON."""
    names = zip(report.ids.tolist(), report.labels, report.settled, strict=True)
    return {
        "made_by": "jmamba lens",
        "model": report.model,
        "text": report.text,
        "tokens": [{"id": i, "label": x, "settled": int(s)} for i, x, s in names],
        "verdict": report.verdict,
        "layers": [_summarise(report, row) for row in range(len(report.layers))],
        "settings": report.settings,
        "environment": report.environment,
        "seconds": report.timings,
        "arrays": describe_arrays(report),
        "files": files,
    }


def _summarise(report: LensReport, row: int) -> dict:
    """Return what a layer says after the text."""
    reading = report.reading
    found = zip(
        reading.ids[row, -1].tolist(),
        report.top_labels[row][-1],
        reading.probabilities[row, -1].tolist(),
        strict=True,
    )
    return {
        "layer": report.layers[row],
        "divergence": float(reading.divergence[row].mean()),
        "after_text": [{"id": i, "label": x, "probability": p} for i, x, p in found],
    }


def _layer_table(report: LensReport) -> str:
    """Return what each layer says after the text."""
    rows = []
    for row, layer in enumerate(report.layers):
        reading, labels = report.reading, report.top_labels[row][-1]
        shares = 100 * reading.probabilities[row, -1]
        likeliest = "  ".join(
            f"{code(label)} {share:.1f} %"
            for label, share in zip(labels[:3], shares, strict=False)
        )
        rows.append(
            f"<tr><th>{layer}</th><td>{likeliest}</td>"
            f"<td class=number>{100 * report.last[row, 0]:.1f} %</td>"
            f"<td class=number>{reading.rank[row, -1]}</td>"
            f"<td class=number>{reading.divergence[row, -1]:.2f}</td>"
            f"<td class=number>{reading.divergence[row].mean():.2f}</td></tr>"
        )
    best = code(report.predictions.labels[0])
    table = f"""<table>
<thead><tr><th>layer</th><th>likeliest after the text</th>
<th class=number>{best}</th><th class=number>likelier than {best}</th>
<th class=number>bits from the model</th>
<th class=number>mean over tokens</th></tr></thead>
<tbody>{"".join(rows)}</tbody>
</table>"""
    return wide(table, "What each layer says after the text")


def _token_table(report: LensReport) -> str:
    """Return what every layer says after every token, as a table to unfold."""
    if len(report.labels) * len(report.layers) > CELLS:
        return "<p>Every layer and token: the arrays hold what no page can.</p>"
    heads = "".join(f"<th>{code(label)}</th>" for label in report.labels)
    rows = []
    for row, layer in enumerate(report.layers):
        cells = "".join(
            f"<td>{code(labels[0])} {100 * shares[0]:.0f}&nbsp;%</td>"
            for labels, shares in zip(
                report.top_labels[row], report.reading.probabilities[row], strict=True
            )
        )
        rows.append(f"<tr><th>{layer}</th>{cells}</tr>")
    title = "Every layer after every token"
    table = f"""<table>
<thead><tr><th>layer</th>{heads}</tr></thead>
<tbody>{"".join(rows)}</tbody>
</table>"""
    return f"<details><summary>{title}</summary>{wide(table, title)}</details>"


write_lens = register_writer(
    LensReport,
    Writer(
        "jmamba-lens",
        lambda report: LENS_PLATES,
        lens_page,
        lens_summary,
        lens_fragment,
    ),
)
"""Writes what each layer would say."""
