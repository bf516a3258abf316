"""Drawing surfaces: figures without global state, token axes, colour bars."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import FuncNorm, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from jmamba.figures.fonts import drawable, plain_text
from jmamba.figures.labels import TokenReport, shorten
from jmamba.figures.words import word_stretches

DPI = 150
INK = "#1f2430"
MUTED = "#5b6472"
TOWARD, AGAINST = "#d95f0e", "#2b6cb0"  # orange and blue: apart for every eye
SERIES = tuple("#0072B2 #D55E00 #009E73 #CC79A7 #56B4E9 #E69F00 #000000".split())
"""Colours of lines: apart for every eye (Okabe & Ito, "Color universal design")."""

MARKERS = "osD^vPX"
"""Marks of lines that may run close to each other."""

GRID = {"color": "#e3e7ee", "linewidth": 0.6}
MAP_COLORS = "viridis"
MAP_DECADES = 3.0  # as in DeciMamba's maps: weaker links are not told apart

MIDDLE_SHARE = 0.3
"""Part of the colours of one sign that go to what is smaller than the median."""

PAGE_WIDTH = 8.4
"""Inches that fill the column of a page; 1280 pixels wide, it has 7 points in 11."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, drawn by Agg only."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.set_facecolor("white")
    return figure


def token_width(length: int) -> float:
    """Return the inches that a figure of so many tokens takes."""
    return float(np.clip(0.17 * length + 3, 6, PAGE_WIDTH))


def label_step(count: int, inches: float, size: float) -> int:
    """Return every how many tokens a label fits, at a font size in points."""
    room = max(1, int(inches * 72 / (size * 1.25)))
    return math.ceil(count / room)


def token_axis(
    ax: Axes,
    report: TokenReport,
    *,
    axis: str,
    inches: float,
    size: float = 7.0,
    name: str = "token",
    start: int = 0,
) -> None:
    """Label an axis with tokens; where they would overlap, with stretches of text.

    Args:
      ax: where to draw; token i is at coordinate i.
      report: whose tokens.
      axis: "x" or "y".
      inches: length of the axis on paper.
      size: font size in points.
      name: what the axis holds.
      start: the first token to label.
    """
    first = sum(piece.start < start for piece in report.pieces)
    pieces, labels = report.pieces[first:], report.piece_labels[first:]
    step = label_step(len(report.labels) - start, inches, size)
    middles = np.array([(piece.start + piece.stop - 1) / 2 for piece in pieces])
    if (np.diff(middles) >= step).all():
        ticks = middles
        texts = [shorten(drawable(label)) for label in labels]
    else:
        stretches = word_stretches(pieces, labels, step)
        ticks = np.array(list(stretches))
        texts = [f"{place} {drawable(text)}" for place, text in stretches.items()]
        name += " (position and text from there)"
    upright = max(map(len, texts)) > 1 and axis == "x"
    which = ax.xaxis if axis == "x" else ax.yaxis
    which.set_ticks(ticks, texts)
    for text in which.get_ticklabels():
        plain_text(text, fontsize=size, rotation=90 if upright else 0)
    which.set_tick_params(length=2, pad=2, colors=INK)
    which.set_label_text(name, fontsize=8, color=MUTED)


def color_bar(figure: Figure, mappable, axes, label: str, **options):
    """Add a labelled colour bar to axes."""
    bar = figure.colorbar(mappable, ax=axes, **options)
    bar.set_label(label, fontsize=8, color=MUTED)
    bar.ax.tick_params(which="both", labelsize=7)
    if isinstance(mappable.norm, LogNorm):
        plain_numbers(bar.ax.yaxis)
    if isinstance(mappable.norm, FuncNorm):
        ticks = np.asarray(mappable.norm.inverse(np.linspace(0, 1, 9)))
        bar.set_ticks(ticks.tolist(), labels=[f"{tick:.2g}" for tick in ticks])
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue] (a Spine, typed as its class)
    return bar


def plain_numbers(axis) -> None:
    """Write the numbers of a logarithmic axis as 0.01, 1, 20 rather than as powers."""
    axis.set_major_formatter(_PlainLogFormatter(labelOnlyBase=False))
    axis.set_minor_formatter(_PlainLogFormatter(labelOnlyBase=False))


class _PlainLogFormatter(LogFormatter):
    """Label the ticks `LogFormatter` would, with plain numbers."""

    def __call__(self, x, pos=None):
        """Return the label of a tick, empty where it has none."""
        return f"{x:g}" if super().__call__(x, pos) else ""


def frame(ax: Axes, title: str, *, sides: Sequence[str] = ()) -> None:
    """Give axes their title and keep only the named sides of the frame."""
    ax.set_title(title, fontsize=9, color=INK, loc="left")
    for side, spine in ax.spines.items():
        spine.set_visible(side in sides)
        spine.set_color("#b8bfca")


def log_scale(values: np.ndarray, decades: float) -> LogNorm:
    """Return a logarithmic colour scale that ends at the largest value.

    Args:
      values: what will be coloured; zeros and masked entries do not count.
      decades: powers of ten shown at most; what is smaller gets the lowest colour.
    """
    positive = np.ma.compressed(np.ma.masked_less_equal(values, 0))
    high = float(positive.max()) if positive.size else 1.0
    low = float(positive.min()) if positive.size else 0.1
    low = max(low, high * 10.0**-decades)
    low = low if low < high * 0.999 else high / 10  # one value is no scale
    return LogNorm(low, high, clip=True)


def signed_scale(values: np.ndarray) -> FuncNorm:
    """Return a colour scale of both signs that reaches as far as the values do.

        share = sign(x) |x / most|^p,   p such that the median size has share 0.3

    Where one layer does most, the others keep colours, and so do its own differences.
    """
    sizes = np.abs(values)
    most = max(float(sizes.max()), 1e-6)
    middle = float(np.clip(np.median(sizes) / most, 1e-3, 0.3))
    power = float(np.log(MIDDLE_SHARE) / np.log(middle))
    both = (
        partial(_signed_power, power=power),
        partial(_signed_power, power=1 / power),
    )
    return FuncNorm(both, vmin=-most, vmax=most)


def _signed_power(x, power: float):
    return np.sign(x) * np.abs(x) ** power


def lower_triangle(matrix: np.ndarray) -> np.ma.MaskedArray:
    """Mask what lies after the reading token: a causal model cannot use it."""
    return np.ma.masked_where(~np.tri(len(matrix), dtype=bool), matrix)


def layer_ticks(ax, count: int, inches: float, names=None) -> None:
    """Number the layers on the y axis, thinned out where numbers would touch."""
    step = math.ceil(count / max(1, int(inches * 72 / 10)))
    ticks = np.arange(0, count, step)
    names = [str(i) for i in range(count)] if names is None else names
    ax.set_yticks(ticks, [names[i] for i in ticks])
    ax.tick_params(axis="y", labelsize=7, length=2)
