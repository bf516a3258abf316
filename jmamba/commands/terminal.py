"""An explanation in the terminal: the text in colour, and tables without it."""

import numpy as np
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jmamba.figures.labels import BLANKS, visible
from jmamba.report.predictions import Predictions
from jmamba.report.text.explanation import Explanation

TOWARD, AGAINST = (235, 125, 40), (95, 155, 225)
BAR_WIDTH = 20


def render(explanation: Explanation) -> Group:
    """Return what the terminal shows of an explanation."""
    kind = explanation.predictions.kind
    legend = Text.assemble(
        "spoke ",
        ("for", _style(1.0)),
        " or ",
        ("against", _style(-1.0)),
        f" {explanation.explained} as the {kind.one}",
    )
    return Group(
        Padding(shaded_text(explanation), (1, 2)),
        Padding(legend, (0, 2, 1, 2)),
        predictions_table(explanation.predictions),
        "",
        drivers_table(explanation),
        *(
            Padding(Text(f"Left out ({part}): {why}", "dim"), (1, 0, 0, 0))
            for part, why in explanation.settings.get("skipped", {}).items()
        ),
    )


def shaded_text(explanation: Explanation) -> Text:
    """Return the text, shaded by what drove the prediction, and the prediction."""
    drivers = np.nan_to_num(explanation.drivers)
    largest = float(np.abs(drivers).max()) or 1.0
    text = Text()
    for (piece, start, _), value in zip(explanation.pieces, drivers, strict=True):
        shown = _shown(piece) or explanation.labels[start]
        text.append(shown, _style(float(value) / largest))
    text.append(" ")
    text.append(f"[{explanation.predictions.labels[0]}]", "bold")
    return text


def predictions_table(best: Predictions) -> Table:
    """Return predictions as a table."""
    table = _table(f"Likeliest {best.kind.several}")
    table.add_column(best.kind.one, no_wrap=True)
    table.add_column("probability", justify="right")
    table.add_column("")
    for label, p in zip(best.labels, best.probabilities, strict=True):
        bar = Text("█" * round(BAR_WIDTH * float(p)), _foreground(1.0))
        table.add_row(Text(label), f"{100 * p:.2f} %", bar)
    return table


def drivers_table(explanation: Explanation) -> Table:
    """Return the tokens that drove the prediction most as a table."""
    table = _table(f"Tokens that drove {explanation.explained} most")
    table.add_column("token", no_wrap=True)
    table.add_column("position", justify="right")
    table.add_column("bits lost", justify="right", no_wrap=True)
    method = explanation.method.replace("_", " ")
    table.add_column(method, justify="right", no_wrap=True)
    table.add_column("attention", justify="right", no_wrap=True)
    table.caption = Text(
        "bits lost: of what is explained, when the token is left out; attention: from "
        "the last token, mean over layers",
        "dim",
    )
    table.caption_justify = "left"
    labels, drivers = explanation.piece_labels, explanation.drivers
    relevance = explanation.by_piece(explanation.relevance[explanation.method])
    share = 100 * explanation.by_piece(explanation.mean_share)
    for i in explanation.listed:
        table.add_row(
            Text(labels[i]),
            str(explanation.pieces[i].start),
            Text(f"{drivers[i]:+.2f}", _foreground(float(drivers[i]))),
            f"{relevance[i]:+.2g}",
            f"{share[i]:.1f} %",
        )
    return table


def _table(title: str) -> Table:
    text = Text(title, "bold")
    return Table(title=text, title_justify="left", box=None, padding=(0, 2))


def _shown(piece: str) -> str:
    """Return a piece as it reads, its line ends and control characters visible."""
    lines = (visible(line, keep=" \u00a0") for line in piece.split("\n"))
    return (BLANKS["\n"] + "\n").join(lines)


def _style(weight: float) -> str:
    """Return the style of a token of a weight in [-1, 1].

    Strong ones get a background and weaker ones a colour, which reads on light and on
    dark terminals alike; the rest stays as it is.
    """
    if abs(weight) < 0.02:
        return ""
    color = _foreground(weight)
    return f"black on {color}" if abs(weight) >= 0.2 else f"bold {color}"


def _foreground(sign: float) -> str:
    return f"rgb({','.join(map(str, TOWARD if sign >= 0 else AGAINST))})"
