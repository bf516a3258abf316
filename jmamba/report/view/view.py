"""A text whose tokens answer to hand and key: which read which, and what counted."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from jmamba.figures.labels import BLANKS, Piece, visible
from jmamba.report.resources import resource
from jmamba.report.view.maps import PairMap, Series
from jmamba.report.view.packing import VIEW_BYTES, Packed, pack_maps

SCRIPTS = ("words.js", "maps.js", "panel.js", "keys.js", "view.js", "start.js")
"""What a view runs, in this order, as one function that leaves no name behind."""

FAINT = 0.03
"""Weights of shade below which none is drawn; the script has the same."""

BOTH, READS, READ = "both", "reads", "read"
"""Directions: what a token reads, by whom it is read."""


class TokenView(NamedTuple):
    """What a view shows of one text.

    Attributes:
      name: of the text among the views of a page.
      pieces: the tokens as stretches of text.
      labels: one readable label per piece.
      series: numbers of each piece; the first is what the text is shaded by at first.
      maps: numbers of each pair of pieces, the most important first; may be none.
      after: what is predicted after the text, None for nothing.
      left_out: part -> why it was not computed.
    """

    name: str
    pieces: Sequence[Piece]
    labels: Sequence[str]
    series: Sequence[Series]
    maps: Sequence[PairMap] = ()
    after: str | None = None
    left_out: dict[str, str] = {}


def render_view(view: TokenView, limit: int = VIEW_BYTES) -> str:
    """Return a view as HTML, to which a page adds `view_style` and `view_script` once.

    It reads without a script, shaded by the first series.

    Args:
      view: what to show.
      limit: bytes that maps between tokens may take.
    """
    packed = pack_maps(view.maps, limit)
    data = json.dumps(view_data(view, packed), separators=(",", ":"))
    return f"""<section class="jmamba jmamba-view" aria-label="{escape(view.name)}">
{_controls(view)}
<div class="sheet">
<div class="paper">
<div class="text" dir="auto"><span class="tokens">{_tokens(view)}</span>{_after(view)}
</div>
<div class="legend">{_legend(view.series[0])}</div>
{_notes(view, packed)}
</div>
<div class="panel" hidden></div>
</div>
<p class="said" role="status"></p>
<script type="application/json" class="data">{data.replace("<", chr(92) + "u003c")}
</script>
</section>
"""


def render_fragment(html: str) -> str:
    """Return views that need nothing else, such as a notebook shows them.

    Args:
      html: the views, and what is around them.
    """
    return f"""<div class="jmamba jmamba-cell">
<style>
{view_style()}</style>
{html}
<script>
{view_script()}</script>
</div>"""


def view_style() -> str:
    """Return the style of views; it touches nothing else."""
    return resource("palette.css") + resource("view/view.css")


def view_script() -> str:
    """Return the script that starts all views of a page that have not started."""
    parts = "".join(resource(f"view/{name}") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}}})();\n'


def view_data(view: TokenView, packed: Packed) -> dict[str, Any]:
    """Return what the script of a view reads."""
    return {
        "labels": list(view.labels),
        "spans": [[piece.start, piece.stop] for piece in view.pieces],
        "series": [
            one._asdict() | {"values": [_short(row) for row in one.values.tolist()]}
            for one in view.series
        ],
        "maps": packed.maps,
    }


def _short(row: list[float]) -> list[float | None]:
    """Return numbers with four digits, None for those that are not known."""
    return [None if np.isnan(x) else float(f"{x:.4g}") for x in row]


def _tokens(view: TokenView) -> str:
    rows = np.nan_to_num(view.series[0].values)
    sizes = np.abs(rows).max(axis=1, initial=0)
    values, largest = rows[int(sizes.argmax())], float(sizes.max()) or 1.0
    weights = np.sqrt(np.abs(values) / largest)  # the root: weak ones show
    weights = np.where(weights < FAINT, 0, weights)
    return "".join(
        f'<span class="token {"toward" if value >= 0 else "against"}" data-i="{i}" '
        f'style="--w:{weight:.3f}">{_shown(piece.text, label)}</span>'
        for i, (piece, label, value, weight) in enumerate(
            zip(view.pieces, view.labels, values, weights, strict=True)
        )
    )


def _shown(text: str, label: str) -> str:
    """Return the HTML of a piece: as it reads, but nothing invisible."""
    if not text:
        return f"<i>{escape(label)}</i>"
    lines = (escape(visible(line, keep=" ")) for line in text.split("\n"))
    return (BLANKS["\n"] + "<br>").join(lines)


def _after(view: TokenView) -> str:
    return "" if view.after is None else f'<bdi class="next">{escape(view.after)}</bdi>'


def _legend(series: Series) -> str:
    kinds = [("toward", series.toward), ("against", series.against)]
    return " ".join(
        f'<span class="swatch {kind}"></span> {escape(words)}'
        for kind, words in kinds
        if words
    )


def _controls(view: TokenView) -> str:
    """Return what chooses, hidden until a script stands behind it."""
    names = list(dict.fromkeys(one.name for one in view.maps))
    shades = _options([(f"s{k}", one.name) for k, one in enumerate(view.series)])
    if names:
        shades = (
            f'<optgroup label="each token">{shades}</optgroup>'
            '<optgroup label="between tokens">'
            f"{_options([(f'm{k}', name) for k, name in enumerate(names)])}</optgroup>"
        )
    directions = _options(
        [(BOTH, "both ways"), (READS, "what it reads"), (READ, "who reads it")]
    )
    return f"""<form class="controls" hidden>
<label>Shade by <select name="shade">{shades}</select></label>
<label class="of-maps">Channels <select name="of"></select></label>
<label class="of-maps">Direction <select name="direction">{directions}</select></label>
<label class="of-layers">Layer <input type="range" name="layer" min="0" max="0"
value="0"><output name="layer-name"></output></label>
<label>Hide below <input type="range" name="threshold" min="0" max="9" value="0">
<output name="threshold-name"></output></label>
<button type="button" name="start-over">Start over</button>
</form>"""


def _options(pairs: Sequence[tuple[str, str]]) -> str:
    return "".join(
        f'<option value="{value}">{escape(text)}</option>' for value, text in pairs
    )


def _notes(view: TokenView, packed: Packed) -> str:
    """Return how to use a view, how exact it is, and what is left out of it."""
    keys = (
        "Keys in the text: arrows move the token, Page Up and Page Down the layer, "
        "Enter keeps a token, Escape starts over."
    )
    if not packed.maps:
        keys = keys.replace("Enter keeps a token, ", "")
    exact = ""
    if packed.maps:
        steps = min(entry["steps"] for entry in packed.maps)
        exact = (
            f" Shares between tokens are stored in {steps + 1} steps of each row's "
            f"largest, at most {100 * packed.error:.2g} percentage points off; "
            "arrays.npz has them whole."
        )
    rest = "".join(
        f"<p>Left out ({escape(part)}): {escape(why)}</p>"
        for part, why in (view.left_out | packed.left_out).items()
    )
    return f'<div class="notes"><p class="keys" hidden>{keys}{exact}</p>{rest}</div>'
