"""The dynamics report as a folder: one HTML page, pictures, arrays, summary."""

from html import escape

from jmamba.figures.labels import isolate, visible
from jmamba.report.display import register_writer
from jmamba.report.dynamics.measure import DynamicsReport
from jmamba.report.dynamics.plates import DYNAMICS_PLATES
from jmamba.report.folder import Writer, describe_arrays
from jmamba.report.page import (
    code,
    colophon,
    definitions,
    document,
    figure_section,
    wide,
)

INTRO = "<p>Regimes after Vo et al., arXiv 2410.03292, sections 4 and 5.</p>"
"""What the footer says first."""

COLUMNS = {
    "right": "eigenvalues of M = S_Cᵀ S_B, n that are not zero, with real part > 0",
    "radius": "largest magnitude of an eigenvalue of M",
    "positive_mass": "positive share of the eigenvalues of M's symmetric part",
    "own": "fraction of tokens with C[i]·B[i] > 0",
    "earlier": "fraction of pairs j < i with C[i]·B[j] > 0",
    "weighted": "mean sign of C[i]·B[j], weighted by what the layer remembers",
    "fast": "fraction of step sizes above ln 2",
    "mean_delta": "mean step size",
    "horizon": "median of the tokens a state remembers",
    "growth": "mean of ln(‖h out‖ / ‖h in‖)",
}
"""Columns of the table of layers, and what they hold."""


def dynamics_page(report: DynamicsReport, figures: dict[str, bytes]) -> str:
    """Return the page of a dynamics report; it needs nothing but itself."""
    title = f"Token dynamics: {isolate(visible(report.text[:60]))}"
    plates = [figure_section(p, figures[p.name], report) for p in DYNAMICS_PLATES]
    body = f"""<section>
<h1>How the tokens move</h1>
<p class="text" dir="auto">{escape(visible(report.text))}</p>
</section>
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
    return document(title, body)


def dynamics_summary(report: DynamicsReport, files: list[str]) -> dict:
    """Return what was run and what came out, ready for JSON."""
    names = zip(report.ids.tolist(), report.labels, strict=True)
    return {
        "made_by": "jmamba dynamics",
        "model": report.model,
        "text": report.text,
        "tokens": [{"id": i, "label": label} for i, label in names],
        "exponents": report.exponents.tolist(),
        "layers": {k: v.tolist() for k, v in report.regimes.columns().items()},
        "settings": report.settings,
        "environment": report.environment,
        "seconds": report.timings,
        "arrays": describe_arrays(report),
        "files": files,
    }


def _token_table(report: DynamicsReport) -> str:
    """Return the regime of every token in every layer as a table to unfold."""
    heads = "".join(f"<th>{code(label)}</th>" for label in report.labels)
    rows = []
    for i, layer in enumerate(report.growth):
        cells = "".join(
            f"<td>{'+' if expands else '−'}{' fast' if fast > 0.5 else ''} {grown:.2f}"
            "</td>"
            for expands, fast, grown in zip(
                report.expands[i], report.fast[i], layer, strict=True
            )
        )
        rows.append(f"<tr><td>{i}</td>{cells}</tr>")
    table = f"""<table>
<thead><tr><th>layer</th>{heads}</tr></thead>
<tbody>{"".join(rows)}</tbody>
</table>"""
    return f"""<details><summary>Every token in every layer</summary>
<p>+ if the layer moves the token along with the tokens it remembers, − if against them;
"fast" if more than half of the channels are; then ln(‖h out‖ / ‖h in‖).</p>
{wide(table, "Every token in every layer")}</details>"""


def _layer_table(report: DynamicsReport) -> str:
    columns = report.regimes.columns()
    heads = "".join(
        f'<th title="{escape(COLUMNS[name])}">{name.replace("_", " ")}</th>'
        for name in columns
    )
    rows = []
    for i in range(len(report.growth)):
        cells = "".join(f"<td>{column[i]:.3g}</td>" for column in columns.values())
        rows.append(f"<tr><th>{i}</th>{cells}</tr>")
    legend = definitions({k.replace("_", " "): COLUMNS[k] for k in columns})
    table = f"""<table>
<thead><tr><th>layer</th>{heads}</tr></thead>
<tbody>{"".join(rows)}</tbody>
</table>"""
    return f"""{wide(table, "Regimes of all layers")}
<details><summary>What the columns hold</summary><dl>{legend}</dl></details>"""


write_dynamics = register_writer(
    DynamicsReport,
    Writer(
        "jmamba-dynamics",
        lambda report: DYNAMICS_PLATES,
        dynamics_page,
        dynamics_summary,
    ),
)
"""Writes how the tokens of a text move."""
