"""A plan as a figure: memory of a device, and what a run takes at least."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from jmamba.figures.canvas import (
    AGAINST,
    DPI,
    GRID,
    INK,
    MUTED,
    SERIES,
    TOWARD,
    frame,
    new_figure,
)

GIB = 2**30


def draw_plan(data: Mapping[str, Any]) -> Figure:
    """Draw the bytes of each device against its memory, and the bounds of a run.

    Args:
      data: of `planning.pages.plan_data`.
    """
    bounds = {name: 1e3 * seconds for name, seconds in data["bounds"].items()}
    figure = new_figure(8.4, 3.4 if bounds else 2.1)
    rows = figure.subplots(2 if bounds else 1, 1, squeeze=False)[:, 0]
    _draw_memory(rows[0], data)
    if bounds:
        _draw_bounds(rows[1], bounds)
    mesh = ", ".join(f"{k} {n}" for k, n in data["mesh"].items() if n > 1) or "whole"
    figure.suptitle(
        f"{data['program']} of {data['model']} on {data['topology']} "
        f"({data['devices']} devices: {mesh}), {data['batch']:,} rows of "
        f"{data['length']:,} tokens",
        fontsize=9, color=INK, x=0.01, ha="left",
    )  # fmt: skip
    return figure


def save_plan(data: Mapping[str, Any], path: Path) -> None:
    """Draw a plan into a file: .png, .svg or .pdf."""
    draw_plan(data).savefig(path, dpi=DPI)


def _draw_memory(ax: Any, data: Mapping[str, Any]) -> None:
    start, capacity = 0.0, data["capacity"]
    for (name, size), colour in zip(data["memory"].items(), SERIES, strict=False):
        width = size / GIB
        label = f"{name} {_plain(width)}"
        ax.barh(0, width, left=start, color=colour, height=0.5, label=label)
        start += width
    if capacity is not None:
        limit = capacity / GIB
        ax.axvline(limit, color=TOWARD, linewidth=1.5)
        ax.axvspan(limit, max(limit, start) * 1.12, color=TOWARD, alpha=0.12)
    ax.set_xlim(0, max(start, (capacity or 0) / GIB) * 1.12 or 1)
    of = "" if capacity is None else f" of {capacity / GIB:.4g}"
    fits = "" if capacity is None else ": fits" if not data["advice"] else ": too much"
    frame(ax, f"memory of each device, {start:.3g}{of} GiB{fits}", sides=("bottom",))
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=5, fontsize=7,
        frameon=False,
    )  # fmt: skip
    _plain_axis(ax, [], "")


def _draw_bounds(ax: Any, bounds: Mapping[str, float]) -> None:
    most = max(bounds.values())
    for place, value in enumerate(bounds.values()):
        colour = TOWARD if value == most else AGAINST
        ax.barh(place, value, color=colour, height=0.6)
        ax.text(value, place, f" {_plain(value)}", va="center", fontsize=7, color=INK)
    ax.set_xlim(0, 1.12 * most or 1)
    ax.invert_yaxis()
    frame(ax, "a run takes at least, ms; the longest decides", sides=("bottom",))
    _plain_axis(ax, list(bounds), "ms")


def _plain(value: float) -> str:
    """Return three digits of a number, without a power of ten."""
    if value < 0.001:
        return "0"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _plain_axis(ax: Any, names: list[str], unit: str) -> None:
    ax.set_yticks(range(len(names)), names)
    ax.set_xlabel(unit, fontsize=8, color=MUTED)
    ax.tick_params(labelsize=7, colors=INK, length=2)
    ax.set_axisbelow(True)
    ax.grid(axis="x", **GRID)
