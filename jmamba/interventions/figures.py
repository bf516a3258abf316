"""The figure of a sweep."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from jmamba.figures.canvas import (
    GRID,
    MUTED,
    TOWARD,
    color_bar,
    frame,
    label_step,
    new_figure,
)
from jmamba.figures.fonts import drawable, plain_text
from jmamba.interventions.sweep_result import Sweep

CELL = 0.2
"""Inches of a cell."""


def draw_sweep(made: Sweep, labels: Sequence[str] | None = None) -> Figure:
    """Draw the mean over samples; see `Sweep.draw`.

    Args:
      made: what came of a sweep.
      labels: texts of the positions.

    Raises:
      ValueError: there are more than two axes, or not one label for each position.
    """
    names = list(made.axes)
    if len(names) > 2:
        raise ValueError(
            f"A sweep over {', '.join(names)} has {len(names)} axes, and a figure two: "
            "sweep over fewer, or draw parts of .values."
        )
    if labels is not None and "positions" in made.axes:
        given = made.axes["positions"]
        if max(given) >= len(labels):
            raise ValueError(
                f"{len(labels)} labels for positions up to {max(given)}; give one for "
                "each token of the inputs."
            )
    values = made.change if made.goal is None else made.recovered
    values = values.mean(axis=-1)
    what = "change of the logit" if made.goal is None else "share of the logit restored"
    if len(names) == 1:
        return _draw_bars(made, values, names[0], what, labels)
    return _draw_map(made, values, names, what, labels)


def _draw_map(made, values, names, what, labels) -> Figure:
    rows, columns = values.shape
    width = float(np.clip(CELL * columns + 2.2, 5, 14))
    height = float(np.clip(CELL * rows + 1.6, 2.6, 9))
    figure = new_figure(width, height)
    ax = figure.subplots()
    most = max(float(np.abs(values).max()), 1e-6)
    image = ax.imshow(
        values, cmap="RdBu", norm=Normalize(-most, most), aspect="auto",
        interpolation="nearest",
    )  # fmt: skip
    frame(ax, made.title)
    _ticks(ax.xaxis, made, names[1], width - 2.2, labels)
    _ticks(ax.yaxis, made, names[0], height - 1.6, labels)
    color_bar(figure, image, ax, what, pad=0.02)
    return figure


def _draw_bars(made, values, name, what, labels) -> Figure:
    width = float(np.clip(CELL * len(values) + 1.6, 4, 14))
    figure = new_figure(width, 2.6)
    ax = figure.subplots()
    ax.bar(np.arange(len(values)), values, color=TOWARD)
    ax.axhline(0, color=MUTED, linewidth=0.6)
    ax.grid(axis="y", **GRID)
    ax.set_axisbelow(True)
    ax.set_ylabel(what, fontsize=8, color=MUTED)
    ax.tick_params(axis="y", labelsize=7)
    frame(ax, made.title, sides=("left", "bottom"))
    _ticks(ax.xaxis, made, name, width - 1.6, labels)
    return figure


def _ticks(axis, made: Sweep, name: str, inches: float, labels) -> None:
    entries = made.axes[name]
    texts = [str(entry) for entry in entries]
    if name == "positions" and labels is not None:
        texts = [drawable(labels[entry]) for entry in entries]
    step = label_step(len(texts), inches, 7.0)
    axis.set_ticks(range(0, len(texts), step), texts[::step])
    for text in axis.get_ticklabels():
        plain_text(text, fontsize=7)
    axis.set_tick_params(length=2, pad=2)
    axis.set_label_text(name.removesuffix("s"), fontsize=8, color=MUTED)
