"""The page of a comparison, and its folder."""

from html import escape

from jmamba.figures.labels import isolate
from jmamba.report.compare.measure import TextComparison
from jmamba.report.compare.plates import COMPARISON_PLATES
from jmamba.report.display import register_writer
from jmamba.report.folder import Writer, describe_arrays
from jmamba.report.page import colophon, document, figure_section
from jmamba.report.text.page import INTRO, text_heading, text_summary
from jmamba.report.text.shown import view_of
from jmamba.report.view.packing import VIEW_BYTES
from jmamba.report.view.view import (
    TokenView,
    render_fragment,
    render_view,
    view_script,
    view_style,
)

LINKED = (
    "What is chosen on one side is chosen on the other, too, where it is there; tokens "
    "are chosen on each."
)
"""How the two views of a page go together."""


def comparison_page(both: TextComparison, figures: dict[str, bytes]) -> str:
    """Return the page of a comparison; it needs nothing but itself."""
    plates = [figure_section(p, figures[p.name], both) for p in COMPARISON_PLATES]
    labels = " and ".join(isolate(one.predictions.labels[0]) for _, one in both.pairs)
    tokens = " and ".join(str(len(one.ids)) for _, one in both.pairs)
    body = f"""<header>
<p class="kicker">jmamba explain · {escape(both.model)}</p>
<h1>{both.title} beside each other</h1>
<p>{LINKED}</p>
</header>
{_side_by_side(both)}
<section>
<h2>Figure</h2>
{"".join(plates)}
</section>
{colophon(both, INTRO, {"tokens": tokens})}"""
    return document(f"{both.title} → {labels}", body, view_style(), view_script())


def comparison_fragment(both: TextComparison) -> str:
    """Return both views, to stand in a notebook."""
    return render_fragment(_side_by_side(both))


def comparison_summary(both: TextComparison, files: list[str]) -> dict:
    """Return what was run and what came out, ready for JSON."""
    sides = {
        side: text_summary(one, []) | {"name": name}
        for side, (name, one) in zip(("first", "second"), both.pairs, strict=True)
    }
    return {
        "made_by": "jmamba explain",
        **sides,
        "arrays": describe_arrays(both),
        "files": files,
    }


def _side_by_side(both: TextComparison) -> str:
    """Return both views as HTML; each has half of the room there is for maps."""
    sides = "".join(
        f"<section><h2>{escape(name)}</h2>{text_heading(one, 'p')}"
        f"{render_view(_named(view_of(one), name), VIEW_BYTES // 2)}</section>"
        for name, one in both.pairs
    )
    return f'<div class="jmamba-pair">{sides}</div>'


def _named(view: TokenView, name: str) -> TokenView:
    return view._replace(name=name)


write_comparison = register_writer(
    TextComparison,
    Writer(
        "jmamba-out",
        lambda both: COMPARISON_PLATES,
        comparison_page,
        comparison_summary,
        comparison_fragment,
    ),
)
"""Writes two explanations beside each other."""
