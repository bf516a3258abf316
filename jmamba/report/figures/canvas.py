"""Drawing surfaces: figures without global state, token axes, colour bars."""

import functools
import math
import unicodedata
from collections.abc import Sequence

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from jmamba.report.labels import TokenReport, shorten

DPI = 150
INK = "#1f2430"
MUTED = "#5b6472"
TOWARD, AGAINST = "#d95f0e", "#2b6cb0"  # orange and blue: apart for every eye
GRID = {"color": "#e3e7ee", "linewidth": 0.6}
MAP_COLORS = "viridis"
MAP_DECADES = 3.0  # as in DeciMamba's maps: weaker links are not told apart
FALLBACK_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans",
    "Hiragino Sans",
    "PingFang SC",
    "Microsoft YaHei",
    "Arial Unicode MS",
    "Noto Sans Devanagari",
    "Noto Sans Symbols2",
    "Noto Emoji",
)
"""Fonts that are used, where they are installed, for letters DejaVu lacks."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, drawn by Agg only."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.set_facecolor("white")
    return figure


@functools.cache
def token_fonts() -> dict[str, object]:
    """Return the families that can draw tokens, best first, with their glyph maps."""
    found = {}
    installed = {font.name for font in font_manager.fontManager.ttflist}
    for family in ("DejaVu Sans Mono", "DejaVu Sans", *FALLBACK_FONTS):
        if family in installed:
            path = font_manager.findfont(family, fallback_to_default=False)
            found[family] = font_manager.get_font(path)
    return found


def drawable(label: str) -> str:
    """Replace characters no font can draw by their code points.

    Examples:
      >>> drawable("␣né")
      '␣né'
      >>> drawable("\\U0010fffd")
      '‹10FFFD›'
    """
    return "".join(_drawable_character(c) for c in label)


def _drawable_character(c: str) -> str:
    # A combining mark without its letter lands on the neighbour.
    mark = unicodedata.combining(c)
    has_glyph = any(font.get_char_index(ord(c)) for font in token_fonts().values())  # pyright: ignore[reportAttributeAccessIssue] (FT2Font has no stub)
    return c if has_glyph and not mark else f"‹{ord(c):04X}›"


def plain_text(text, *, mono: bool = True, **style):
    """Give a text artist the token fonts, and keep `$` from starting a formula."""
    text.set_parse_math(False)
    families = list(token_fonts())
    text.set_fontfamily(families if mono else families[1:] + families[:1])
    text.set(**style)
    return text


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
    count = len(report.labels)
    step = label_step(count - start, inches, size)
    ticks = np.arange(start, count, step)
    if step == 1:
        texts = [shorten(drawable(label)) for label in report.labels[start:]]
    else:
        starts = report.starts
        stretches = ["".join(starts[i : i + step]) for i in ticks]
        texts = [
            f"{i} {drawable(text)[:10]}"
            for i, text in zip(ticks, stretches, strict=True)
        ]
        name += f" (position and text from there, every {step} tokens)"
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
