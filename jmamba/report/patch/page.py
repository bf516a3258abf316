"""The page of patches, and its folder."""

from html import escape

import numpy as np

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
    wide,
)
from jmamba.report.patch.plates import PATCH_PLATES
from jmamba.report.patch.report import PatchReport
from jmamba.report.view.maps import Series, name_layers
from jmamba.report.view.view import (
    TokenView,
    render_fragment,
    render_view,
    view_script,
    view_style,
)

INTRO = """<p>Activation patching after Meng et al., arXiv 2202.05262; attribution
patching after Nanda, 2023, and Syed, Rager and Conmy, arXiv 2310.10348. A patch that
brings the answer back says that what differs between the texts passes there, not that
nothing else matters.</p>"""
"""What the footer says first."""

LISTED = 12
"""Patches that the page and the terminal list."""


def patch_page(report: PatchReport, figures: dict[str, bytes]) -> str:
    """Return the page of patches; it needs nothing but itself."""
    title = f"Patching: {isolate(visible(report.clean[:60]))}"
    plates = [figure_section(p, figures[p.name], report) for p in PATCH_PLATES]
    asked = " rather than ".join(quoted(label) for label in report.question.labels)
    body = f"""<header>
<p class="kicker">jmamba patch · {escape(report.model)} · {escape(report.place)}</p>
<h1>What brings back {asked}</h1>
<p>Clean: <q dir="auto">{_marked(report, report.labels)}</q></p>
<p>Corrupted: <q dir="auto">{_marked(report, report.corrupted_labels)}</q></p>
<p>The answer's logit is {report.goal:.2f} after the clean text and {report.base:.2f}
after the corrupted one; a patch of 100 % brings all of the difference back.</p>
</header>
{render_view(patch_view(report))}
<section>
<h2>Patches that do most</h2>
{_patch_table(report)}
</section>
<section>
<h2>Figures</h2>
{"".join(plates)}
</section>
<div class="columns">
{_predictions("clean", report.predictions)}
{_predictions("corrupted", report.corrupted_predictions)}
</div>
{colophon(report, INTRO, {"tokens": len(report.ids)})}"""
    return document(title, body, view_style(), view_script())


def patch_view(report: PatchReport) -> TokenView:
    """Return the view of patches: what each brings back, layer by layer."""
    layers = name_layers(report.layers)
    words = "brings the answer back", "takes it further away"
    recovered = {"brought back": report.recovered, "estimated": report.estimated}
    return TokenView(
        name="The clean text",
        pieces=report.pieces,
        labels=report.piece_labels,
        series=[
            Series(name, 100 * _strongest(values, report.pieces), "%", *words, layers)
            for name, values in recovered.items()
        ],
        after=report.predictions.labels[0],
    )


def patch_fragment(report: PatchReport) -> str:
    """Return the view of patches, to stand in a notebook."""
    return render_fragment(render_view(patch_view(report)))


def _strongest(values, pieces):
    """Return of each piece the value of the largest magnitude among its tokens."""
    parts = (values[:, piece.start : piece.stop] for piece in pieces)
    largest = [
        np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1) for x in parts
    ]
    return np.concatenate(largest, axis=1)


def patch_summary(report: PatchReport, files: list[str]) -> dict:
    """Return what was run and what came out, ready for JSON."""
    tokens = zip(
        report.ids.tolist(),
        report.labels,
        report.corrupted_ids.tolist(),
        report.corrupted_labels,
        strict=True,
    )
    return {
        "made_by": "jmamba patch",
        "model": report.model,
        "clean": report.clean,
        "corrupted": report.corrupted,
        "tokens": [
            {"clean": {"id": i, "label": a}, "corrupted": {"id": j, "label": b}}
            for i, a, j, b in tokens
        ],
        "answer": list(report.question.labels),
        "logit_clean": report.goal,
        "logit_corrupted": report.base,
        "strongest": [_summarise(report, *one) for one in report.strongest(LISTED)],
        "attribution_patching": report.error._asdict(),
        "settings": report.settings,
        "environment": report.environment,
        "seconds": report.timings,
        "arrays": describe_arrays(report),
        "files": files,
    }


def _summarise(report: PatchReport, row: int, token: int) -> dict:
    return {
        "where": report.row_labels[row],
        "token": token,
        "label": report.labels[token],
        "recovered": float(report.recovered[row, token]),
        "estimated": float(report.estimated[row, token]),
    }


def _marked(report: PatchReport, labels: tuple[str, ...]) -> str:
    """Return a text as HTML, with what differs marked."""
    different = set(report.different.tolist())
    return "".join(
        f"<mark>{escape(label)}</mark>" if i in different else escape(label)
        for i, label in enumerate(labels)
    )


def _patch_table(report: PatchReport) -> str:
    """Return the patches that do most, with their estimates."""
    rows = "".join(
        f"<tr><td>{report.row_labels[row]}</td><td class=number>{token}</td>"
        f"<td>{code(report.labels[token])}</td>"
        f"<td>{code(report.corrupted_labels[token])}</td>"
        f"<td class=number>{100 * report.recovered[row, token]:.1f} %</td>"
        f"<td class=number>{100 * report.estimated[row, token]:.1f} %</td></tr>"
        for row, token in report.strongest(LISTED)
    )
    table = f"""<table>
<thead><tr><th>where</th><th class=number>position</th><th>clean token</th>
<th>corrupted token</th><th class=number>brought back</th>
<th class=number>estimated</th></tr></thead>
<tbody>{rows}</tbody></table>"""
    return wide(table, "Patches that do most")


def _predictions(which: str, best) -> str:
    return f"""<section><h2>Likeliest after the {which} text</h2>
<table><thead><tr><th>{best.kind.one}</th><th class=number>number</th>
<th class=number>probability</th><td></td></tr></thead>
<tbody>{prediction_rows(best)}</tbody></table></section>"""


write_patches = register_writer(
    PatchReport,
    Writer(
        "jmamba-patch",
        lambda report: PATCH_PLATES,
        patch_page,
        patch_summary,
        patch_fragment,
    ),
)
"""Writes what brings an answer back."""
