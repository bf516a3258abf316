"""An image's report as a folder: one HTML page, pictures, arrays, summary."""

from html import escape
from pathlib import Path

from jmamba.figures.labels import isolate
from jmamba.report.display import register_writer
from jmamba.report.folder import Writer, describe_arrays
from jmamba.report.image.explanation import ImageExplanation
from jmamba.report.image.plates import image_plates_of
from jmamba.report.page import (
    colophon,
    document,
    figure_section,
    prediction_rows,
    quoted,
)
from jmamba.report.plate import ALPHA

INTRO = f"""<p>Hidden attention: <span class="formula">{ALPHA}</span></p>
<p>Methods after Ali, Zimerman &amp; Wolf, arXiv 2403.01590, and Jafari et al., arXiv
2406.07592.</p>"""
"""What the footer says first."""


def image_page(explanation: ImageExplanation, figures: dict[str, bytes]) -> str:
    """Return the page of an image's explanation; it needs nothing but itself.

    Args:
      explanation: what to show.
      figures: PNG files by the name of their plate.
    """
    best = explanation.predictions
    heat, *rest = [
        figure_section(plate, figures[plate.name], explanation)
        for plate in image_plates_of(explanation)
        # The table of the page says the same as the picture of the predictions.
        if plate.name in figures and plate.name != "predictions"
    ]
    title = f"{isolate(Path(explanation.shown_name).name)} → {isolate(best.labels[0])}"
    body = f"""<header>
<p class="kicker">jmamba explain · {escape(explanation.model)} ·
<bdi>{escape(explanation.shown_name)}</bdi></p>
<h1>In this picture the model sees {quoted(best.labels[0])}
<small>{100 * best.probabilities[0]:.1f} % sure</small></h1>
{_other_target(explanation)}
</header>
<section>
{heat}
</section>
{_tables(explanation)}
<section>
<h2>Figures</h2>
{"".join(rest)}
</section>
{colophon(explanation, INTRO, _subject(explanation))}"""
    return document(title, body)


def image_summary(explanation: ImageExplanation, files: list[str]) -> dict:
    """Return what was run and what came out, ready for JSON."""
    best = explanation.predictions
    rows = zip(best.ids, best.labels, best.probabilities, strict=True)
    height, width = explanation.picture.shape[:2]
    return {
        "made_by": "jmamba explain",
        "model": explanation.model,
        "image": explanation.name,
        "size": {"width": width, "height": height},
        "seen": explanation.seen._asdict(),
        "read_as": explanation.read_as._asdict(),
        "predictions": [
            {"id": int(i), "label": label, "probability": float(p)}
            for i, label, p in rows
        ],
        "target": {
            "id": explanation.target,
            "label": explanation.label,
            "probability": explanation.probability,
        },
        "method": explanation.method,
        "agreement": {
            name: None if value != value else value
            for name, value in explanation.agreement().items()
        },
        "settings": explanation.settings,
        "environment": explanation.environment,
        "seconds": explanation.timings,
        "arrays": describe_arrays(explanation),
        "files": files,
    }


def _subject(explanation: ImageExplanation) -> dict[str, str]:
    height, width = explanation.picture.shape[:2]
    rows, columns = explanation.relevance[explanation.method].shape
    return {
        "picture": f"{width} x {height} pixels",
        "read": explanation.how_read,
        "patches": f"{rows} x {columns}",
    }


def _other_target(explanation: ImageExplanation) -> str:
    """Return a line about the class that is explained, if it is not the best one."""
    if explanation.target == explanation.predictions.ids[0]:
        return ""
    label, percent = quoted(explanation.label), 100 * explanation.probability
    return f"""<p>Explained is another class, {label}, to which it
gives {percent:.2f} %.</p>"""


def _tables(explanation: ImageExplanation) -> str:
    agreement = "".join(
        f"<tr><td>{name.replace('_', ' ')}</td>"
        f"<td class=number>{'–' if value != value else f'{value:+.2f}'}</td></tr>"
        for name, value in explanation.agreement().items()
    )
    others = f"""<section><h2>Do other methods agree?</h2>
<table><thead><tr><th>method</th>
<th class=number>rank correlation with {explanation.method.replace("_", " ")}, patch by
patch</th>
</tr></thead><tbody>{agreement}</tbody></table></section>"""
    return f"""<div class="columns">
<section><h2>Likeliest classes</h2>
<table><thead><tr><th>class</th><th class=number>number</th>
<th class=number>probability</th><td></td></tr></thead>
<tbody>{prediction_rows(explanation.predictions)}</tbody></table></section>
{others if agreement else ""}
</div>"""


write_image = register_writer(
    ImageExplanation,
    Writer("jmamba-out", image_plates_of, image_page, image_summary),
)
"""Writes the explanation of a picture."""
