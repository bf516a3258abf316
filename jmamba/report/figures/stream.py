"""Pictures of the residual stream: token norms, Jacobian norms, what drives a logit."""

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from jmamba.report.figures.attention import layer_ticks
from jmamba.report.figures.canvas import (
    AGAINST,
    INK,
    MUTED,
    TOWARD,
    color_bar,
    drawable,
    frame,
    log_scale,
    lower_triangle,
    new_figure,
    plain_numbers,
    plain_text,
    token_axis,
)
from jmamba.report.image.explanation import ImageExplanation
from jmamba.report.labels import TokenReport, shorten
from jmamba.report.text.explanation import Explanation

GRID = {"color": "#e3e7ee", "linewidth": 0.6}


def draw_token_norms(report: TokenReport) -> Figure:
    """Draw the norm of every token's residual stream through depth."""
    norms = report.norms
    depth, length = norms.shape
    width = float(np.clip(0.17 * length + 3, 7, 13))
    rows = float(np.clip(0.17 * depth, 1.6, 6))
    figure = new_figure(width, rows + 4.4)
    heat, lines = figure.subplots(2, 1, height_ratios=[rows + 0.6, 2.6])
    image = heat.imshow(
        norms,
        aspect="auto",
        cmap="cividis",
        norm=log_scale(norms, 6.0),
        interpolation="nearest",
    )
    frame(heat, "norm of each token through depth")
    names = ["embedding", *map(str, range(depth - 1))]
    layer_ticks(heat, depth, rows, names)
    heat.set_ylabel("after layer", fontsize=8, color=MUTED)
    token_axis(heat, report, axis="x", inches=width - 2.2)
    color_bar(figure, image, heat, "Euclidean norm (log)", pad=0.02)
    _norm_lines(figure, lines, norms)
    return figure


def _norm_lines(figure, ax, norms):
    depth, length = norms.shape
    colors = colormaps["viridis"]
    positions = Normalize(0, max(length - 1, 1))
    for j in range(length):
        color = colors(positions(j))
        ax.plot(norms[:, j], color=color, linewidth=0.8, alpha=0.6, marker=".", ms=2)
    if length > 1:
        median = np.median(norms, axis=1)
        ax.plot(median, color=INK, linewidth=2, label="median token")
        ax.legend(frameon=False, fontsize=8)
        bar = ScalarMappable(positions, colors)
        color_bar(figure, bar, ax, "token position", pad=0.02)
    ax.set_yscale("log")
    frame(
        ax,
        "the same, one line per token" if length > 1 else "the same, as a line",
        sides=("left", "bottom"),
    )
    ax.set_xlabel("layers passed (0: embedding)", fontsize=8, color=MUTED)
    ax.set_ylabel("Euclidean norm (log)", fontsize=8, color=MUTED)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_numbers(ax.yaxis)
    ax.tick_params(which="both", labelsize=7)
    ax.grid(**GRID)


def draw_jacobian_norms(explanation: Explanation) -> Figure:
    """Draw how strongly each token's end depends on each token's start.

    Raises:
      ValueError: the explanation holds no Jacobian norms.
    """
    if explanation.jacobian is None:
        raise ValueError(
            "This explanation holds no Jacobian norms; make it with "
            "explain(..., jacobian=True) to draw them."
        )
    matrix = lower_triangle(explanation.jacobian)
    side = 6.4
    figure = new_figure(side + 0.6, side)
    ax = figure.subplots()
    image = ax.imshow(
        matrix, cmap="magma", norm=log_scale(matrix, 5.0), interpolation="nearest"
    )
    count = len(explanation.norms) - 1
    frame(ax, f"Jacobian of all {count} layers, by tokens", sides=("left", "bottom"))
    names = {"x": "input token j", "y": "output token i"}
    for axis, name in names.items():
        inches = side - 1.8
        token_axis(ax, explanation, axis=axis, inches=inches, name=name)
    label = "‖∂ x_out[i] / ∂ x_in[j]‖, Frobenius (log)"
    color_bar(figure, image, ax, label, shrink=0.85, pad=0.02)
    return figure


def predictions(explanation: Explanation | ImageExplanation) -> Figure:
    """Draw the probabilities of the likeliest next tokens, or classes."""
    best = explanation.predictions
    count = len(best.ids)
    figure = new_figure(6.5, 0.3 * count + 1.1)
    ax = figure.subplots()
    ax.barh(np.arange(count), best.probabilities, color=TOWARD, height=0.72)
    labels = [drawable(shorten(label, 24)) for label in best.labels]
    ax.set_yticks(np.arange(count), labels)
    for text in ax.get_yticklabels():
        plain_text(text, fontsize=9)
    ax.invert_yaxis()
    for i, p in enumerate(best.probabilities):
        ax.annotate(
            f"{100 * p:.1f} %",
            (p, i),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=INK,
        )
    ax.set_xlim(0, min(1.18, 1.18 * float(best.probabilities.max())))
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    ax.tick_params(axis="x", labelsize=7)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", **GRID)
    ax.set_axisbelow(True)
    one, all_ = ("next token", "next tokens")
    if isinstance(explanation, ImageExplanation):
        one, all_ = ("class", "classes")
    ax.set_xlabel(f"probability of the {one}", fontsize=8, color=MUTED)
    frame(ax, f"likeliest {all_}", sides=("left", "bottom"))
    return figure


def drivers(explanation: Explanation) -> Figure:
    """Draw what each token did for the best next token: left out, and by gradient."""
    first = len(explanation.pieces) - len(explanation.left_out)
    reached = explanation.pieces[first:]
    start, length = reached[0].start, len(explanation.ids)
    width = float(np.clip(0.17 * (length - start) + 2, 7, 13))
    figure = new_figure(width, 4.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[1.6, 1])
    middles = [(piece.start + piece.stop - 1) / 2 for piece in reached]
    widths = [piece.stop - piece.start - 0.15 for piece in reached]
    _signed_bars(upper, middles, explanation.left_out, widths)
    upper.set_ylabel("left out: bits lost", fontsize=8, color=MUTED)
    gradient = explanation.gradient_input[start:]
    _signed_bars(lower, np.arange(start, length), gradient, 0.85)
    lower.set_ylabel("gradient × input\n(logits)", fontsize=8, color=MUTED)
    lower.set_xlim(start - 0.6, length - 0.4)
    token_axis(lower, explanation, axis="x", inches=width - 1, start=start)
    best = drawable(explanation.predictions.labels[0])
    title = f"what spoke for (orange) and against (blue) {best} as the next token"
    if start > 0:
        title += f" (the last {length - start} of {length} tokens)"
    plain_text(upper.set_title(title, fontsize=9, loc="left", color=INK), mono=False)
    return figure


def _signed_bars(ax, x, values, widths) -> None:
    colors = [TOWARD if value >= 0 else AGAINST for value in values]
    ax.bar(x, values, width=widths, color=colors)
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.tick_params(axis="y", labelsize=7)
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="y", **GRID)
    ax.set_axisbelow(True)
    frame(ax, "", sides=("left",))
