"""Pictures of token dynamics: growth, turning, regimes, exponents over depth."""

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jmamba.figures.canvas import (
    AGAINST,
    GRID,
    INK,
    MUTED,
    PAGE_WIDTH,
    TOWARD,
    color_bar,
    frame,
    layer_ticks,
    new_figure,
    signed_scale,
    token_axis,
    token_width,
)
from jmamba.report.dynamics.measure import DynamicsReport


def growth(report: DynamicsReport) -> Figure:
    """Draw by how much each layer lengthens each token."""
    options = {"cmap": "PuOr_r", "norm": signed_scale(report.growth)}
    label = "ln(|h out| / |h in|)"
    return _layer_maps(report, {"growth": (report.growth, options, label)})


def turning(report: DynamicsReport) -> Figure:
    """Draw by what angle each layer turns each token."""
    angle = np.degrees(np.arccos(np.clip(report.cosine, -1, 1)))
    options = {"cmap": "viridis", "vmin": 0.0}
    return _layer_maps(report, {"angle of turning": (angle, options, "degrees")})


def regimes(report: DynamicsReport) -> Figure:
    """Draw the regime of every token in every layer."""
    two = ListedColormap([AGAINST, TOWARD])
    panels = {
        "orange: moved along with the tokens it remembers; blue: against them": (
            report.expands, {"cmap": two, "vmin": 0, "vmax": 1},
            "mean C·B > 0",
        ),
        "fast channels": (
            report.fast,
            {"cmap": "cividis", "vmin": 0.0, "vmax": max(report.fast.max(), 0.01)},
            "fraction",
        ),
    }  # fmt: skip
    return _layer_maps(report, panels)


def contraction(report: DynamicsReport) -> Figure:
    """Draw how far each layer can take two values of each token apart."""
    values = report.log_norms
    options = {"cmap": "PuOr_r", "norm": signed_scale(values)}
    return _layer_maps(
        report, {"logarithmic norm": (values, options, "μ₂(J[l,l] − 1)")}
    )


def exponents(report: DynamicsReport) -> Figure:
    """Draw the exponents over depth, and what each layer adds to them."""
    figure = new_figure(PAGE_WIDTH, 3.4)
    bars, lines = figure.subplots(1, 2, width_ratios=[1, 1.4])
    values = report.exponents
    colors = [TOWARD if v > 0 else AGAINST for v in values]
    bars.bar(np.arange(1, len(values) + 1), values, color=colors)
    frame(bars, "exponents over depth", sides=("left", "bottom"))
    bars.set_xlabel("direction", fontsize=8, color=MUTED)
    bars.set_ylabel("ln growth per layer", fontsize=8, color=MUTED)
    for i, line in enumerate(report.exponents_per_layer.T):
        style = {"color": INK, "linewidth": 2} if i == 0 else {"color": MUTED}
        lines.plot(line, marker=".", alpha=1 if i == 0 else 0.4, **style)
    frame(lines, "layer by layer (bold: the first)", sides=("left", "bottom"))
    lines.set_xlabel("layer", fontsize=8, color=MUTED)
    for ax in (bars, lines):
        ax.axhline(0, color=INK, linewidth=0.8)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.tick_params(labelsize=7)
        ax.grid(**GRID)
        ax.set_axisbelow(True)
    return figure


def _layer_maps(report: DynamicsReport, panels: dict) -> Figure:
    """Draw maps of layer by token under each other: name -> values, options, label."""
    layers, length = report.growth.shape
    width = token_width(length)
    rows = float(np.clip(0.17 * layers, 1.4, 6))
    figure = new_figure(width, len(panels) * (rows + 1.5))
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for ax, (name, (values, options, label)) in zip(axes, panels.items(), strict=True):
        image = ax.imshow(values, aspect="auto", interpolation="nearest", **options)
        frame(ax, name)
        layer_ticks(ax, layers, rows)
        ax.set_ylabel("layer", fontsize=8, color=MUTED)
        token_axis(ax, report, axis="x", inches=width - 2.2)
        bar = color_bar(figure, image, ax, label, pad=0.02)
        if values.dtype == bool:
            bar.set_ticks([0.25, 0.75], labels=["no", "yes"])
    return figure
