"""The look of all reports: one HTML page that needs nothing but itself."""

import base64
import io
from html import escape
from typing import Any

from PIL import Image

from jmamba.report.plate import Plate
from jmamba.report.predictions import Predictions
from jmamba.report.resources import resource

SMALL = 60_000
"""Pictures of so many bytes are on the page as they are; larger ones as WebP."""

QUALITY = 80
"""Of pictures on the page; the files beside it are exact."""

LARGE = 400_000
"""Pictures of more bytes are beside the page only."""


def document(title: str, body: str, style: str = "", script: str = "") -> str:
    """Return a whole page in the reports' look.

    Args:
      title: of the window.
      body: HTML inside of the page's column.
      style: of parts of it, which brings the palette; "" for the palette alone.
      script: of parts of it, "" for none.
    """
    running = f"<script>\n{script}</script>\n" if script else ""
    return f"""<!doctype html>
<html lang="en" class="jmamba">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)} · jmamba</title>
<style>
{style or resource("palette.css")}{resource("page.css")}</style>
</head>
<body>
<main>
{body}
</main>
{running}</body>
</html>
"""


def code(label: str) -> str:
    """Return a label as code, in its own direction within any line."""
    return f"<code><bdi>{escape(label)}</bdi></code>"


def quoted(label: str) -> str:
    """Return a label in a box, in its own direction within any line."""
    return f'<q class="best"><bdi>{escape(label)}</bdi></q>'


def prediction_rows(best: Predictions) -> str:
    """Return the rows of a table of predictions."""
    return "".join(
        f"<tr><td>{code(label)}</td><td class=number>{i}</td>"
        f"<td class=number>{100 * p:.2f} %</td>"
        f'<td class=bar><i style="width:{100 * p:.1f}%"></i></td></tr>'
        for i, p, label in zip(best.ids, best.probabilities, best.labels, strict=True)
    )


def figure_section(plate: Plate, png: bytes, report: Any) -> str:
    """Return a picture with its caption, formula and the names of its arrays.

    Args:
      plate: the picture.
      png: its file.
      report: what it was drawn from.
    """
    arrays = ", ".join(f"<code>{escape(name)}</code>" for name in plate.arrays)
    return f"""<figure id="{plate.name}">
<h3>{escape(plate.title)}</h3>
<figcaption>{escape(plate.caption)}
<span class="formula">{escape(plate.formula)}</span></figcaption>
{_picture(png, plate.title, plate.describe(report))}
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


def wide(table: str, label: str) -> str:
    """Return a table that scrolls where it is wider than the page.

    Args:
      table: HTML.
      label: what is scrolled, for those who do not see it.
    """
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(label)}">'
        f"{table}</div>"
    )


def _picture(png: bytes, title: str, described: str) -> str:
    """Return a picture as HTML, in the page itself unless it is too large for one."""
    kind, data = _shrink(png)
    if len(data) > LARGE:
        return (
            f"<p>{escape(described)}. The picture is beside this page only: it would "
            f"take {len(data) / 1e6:.1f} MB of it.</p>"
        )
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return (
        f'<div class="picture" role="region" tabindex="0" aria-label="{escape(title)}">'
        f'<img alt="{escape(described)}" src="{source}"></div>'
    )


def _shrink(png: bytes) -> tuple[str, bytes]:
    """Return the kind and the bytes of the smaller of two files of a picture."""
    if len(png) <= SMALL:
        return "png", png
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(buffer, "WEBP", quality=QUALITY)
    webp = buffer.getvalue()
    return ("webp", webp) if len(webp) < len(png) else ("png", png)
