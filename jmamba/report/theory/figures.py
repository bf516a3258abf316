"""Pictures of the theory's runs: one token after another, over time and parameters."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Patch

from jmamba.dynamics.theory.scalar_portraits import REGIMES
from jmamba.figures.canvas import (
    GRID,
    INK,
    MUTED,
    PAGE_WIDTH,
    SERIES,
    color_bar,
    frame,
    new_figure,
    plain_numbers,
)

TOKENS = SERIES
"""Colours of tokens 1, 2, ..."""

PREDICTED: dict[str, Any] = {"color": INK, "linestyle": (0, (4, 3)), "linewidth": 1.0}
"""How what theory predicts is drawn: dashed."""


def convergence(portraits) -> Figure:
    """Draw tokens going to zero, with their predicted asymptotes."""
    seen = portraits.convergence
    one = int(np.argmin(np.abs(seen.rates - 1)))
    times = np.exp(seen.log_times)
    figure = new_figure(PAGE_WIDTH, 3.9)
    sizes, scaled = figure.subplots(1, 2)
    _token_lines(sizes, times, seen.sizes[one])
    late = times[times >= 1]  # before, the asymptotes are far above
    for limit in seen.limits[one][:2]:
        sizes.plot(late, limit / np.sqrt(late), **PREDICTED)
    _axes(sizes, f"tokens, a = {seen.rates[one]:g}", "t", "|x|", log="xy")
    sizes.legend(frameon=False, fontsize=8, loc="lower left")
    for run, limits in zip(seen.sizes, seen.limits, strict=True):
        _token_lines(scaled, times, run * np.sqrt(times)[:, None])
        scaled.axhline(limits[1], **PREDICTED)
    scaled.axhline(seen.limits[one][0], **PREDICTED)
    names = {f"a = {a:g}": limits[1] for a, limits in
             zip(seen.rates, seen.limits, strict=True)}  # fmt: skip
    _label_lines(scaled, names | {"first": seen.limits[one][0]})
    _axes(scaled, "the same times √t: constants", "t", "√t |x|", log="x")
    return figure


def slow_divergence(portraits) -> Figure:
    """Draw tokens that diverge like ln t, and the power of ln t that bounds them."""
    seen = portraits.slow
    figure = new_figure(PAGE_WIDTH, 3.9)
    over_log, over_bound = figure.subplots(1, 2)
    log_times = seen.log_times
    _token_lines(over_log, log_times, seen.x / log_times[:, None])
    _axes(over_log, "divided by ln t: they level off", "ln t", "x / ln t", log="x")
    over_log.set_ylim(0, None)
    _token_lines(over_bound, log_times, seen.x / seen.bound)
    over_bound.legend(frameon=False, fontsize=8, loc="lower left")
    title = "divided by (ln t)^l: they fall behind"
    _axes(over_bound, title, "ln t", "x / (ln t)^l", log="xy")
    for ax in (over_log, over_bound):
        plain_numbers(ax.xaxis)
    return figure


def blow_ups(portraits) -> Figure:
    """Draw tokens on their way to a blow-up, over the time left."""
    runs = portraits.blow_ups
    figure = new_figure(PAGE_WIDTH, 3.6)
    axes = figure.subplots(1, len(runs), squeeze=False)[0]
    for ax, run in zip(axes, runs, strict=True):
        _token_lines(ax, run.left, run.sizes)
        ax.plot(run.left, run.law, **PREDICTED)
        slope = "−1/3" if run.s else "−1/2"
        title = f"s = {run.s:g}: T = {run.end:.5f}, token {run.token + 1} first"
        _axes(ax, title, "T − t", "|x|", log="xy")
        ax.invert_xaxis()
        ax.legend(frameon=False, fontsize=8, loc="upper left")
        middle = len(run.left) * 3 // 5
        where = (run.left[middle], run.law[middle])
        _note(ax, f"slope {slope}", where, (8, -16), "left")
    return figure


def phases(portraits) -> Figure:
    """Draw the regime of one token over mu and s x, as simulated."""
    seen = portraits.phases
    figure = new_figure(7.2, 5.2)
    ax = figure.subplots()
    colors = ("#bcd3ea", "#f6d9a8", "#e58a5a", "#000000")
    ax.pcolormesh(
        seen.sx, seen.mu, seen.regimes, cmap=ListedColormap(colors), vmin=0, vmax=3
    )
    top = float(seen.mu[-1])
    for time in (10, 3, 1, 0.3, 0.1):  # T is inverse to mu
        line = seen.time_alone / time
        ax.plot(seen.fine_sx, line, color=INK, linewidth=0.8)
        where = (np.interp(-top, -line, seen.fine_sx), top)
        name, align = ("T = 10", "right") if time == 10 else (f"{time:g}", "center")
        _note(ax, name, where, (0, 3), align)
    ax.set_ylim(seen.mu[0], seen.mu[-1])
    ax.set_xlim(seen.sx[0], seen.sx[-1])
    ax.axhline(0, **PREDICTED)
    ax.plot([0, 0], [0, seen.mu[-1]], **PREDICTED)
    there = sorted(set(seen.regimes.ravel().tolist()))
    key = [Patch(color=colors[i], label=REGIMES[i]) for i in there]
    ax.legend(
        handles=key, frameon=False, fontsize=8, ncols=len(key), loc="upper center",
        bbox_to_anchor=(0.5, -0.12),
    )  # fmt: skip
    _axes(ax, "one token, a = 1, no bias", "s x at t = 0", "μ = S_Cᵀ S_B")
    ax.grid(visible=False)
    return figure


def plane(portraits) -> Figure:
    """Draw ways of tokens of two channels, the whole plane in a disc."""
    runs = portraits.plane
    figure = new_figure(PAGE_WIDTH, 2.9)
    axes = figure.subplots(1, len(runs))
    for ax, (name, run) in zip(axes, runs.items(), strict=True):
        ax.add_patch(Circle((0, 0), 1, fill=False, edgecolor="#b8bfca"))
        _null_cone(ax, run.M)
        for i in range(run.paths.shape[1]):
            size = np.linalg.norm(run.paths[:, i], axis=1, keepdims=True)
            way, color = (run.paths[:, i] / (1 + size)).T, TOKENS[i]
            ax.plot(*way, color=color, linewidth=1.6, label=f"token {i + 1}")
            ax.plot(*way[:, :1], "o", color=color, ms=4, mfc="white")
            ax.plot(*way[:, -1:], "o", color=color, ms=5)
        ax.plot(0, 0, "+", color=MUTED, ms=6)
        ax.set_aspect("equal")
        ax.set_xlim(-1.05, 1.05)
        ax.set_ylim(-1.05, 1.05)
        ax.set_xticks([])
        ax.set_yticks([])
        frame(ax, name)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, frameon=False, fontsize=8, ncols=4, loc="outside lower center"
    )
    return figure


def _null_cone(ax: Axes, M) -> None:
    """Draw the lines x^T M x = 0, if there are any."""
    values, Q = np.linalg.eigh((M + M.T) / 2)
    if values[0] >= 0 or values[1] <= 0:
        return
    for sign in (-1, 1):
        line = Q @ np.array([np.sqrt(values[1]), sign * np.sqrt(-values[0])])
        line = line / np.linalg.norm(line)
        ax.plot([-line[0], line[0]], [-line[1], line[1]], **PREDICTED)


def attention(portraits) -> Figure:
    """Draw hidden attention at a few times of each scenario."""
    runs = portraits.attention
    figure = new_figure(PAGE_WIDTH, 7.8)
    grid = figure.subplots(len(runs), 3)
    image = None
    for row, (name, run) in zip(grid, runs.items(), strict=True):
        for ax, moment, P in zip(row, run.moments, run.P, strict=True):
            share = np.abs(P) / np.abs(P).sum(axis=1, keepdims=True)
            masked = np.ma.masked_where(~np.tri(len(P), dtype=bool), share)
            image = ax.imshow(masked, cmap="magma", vmin=0, vmax=1)
            frame(ax, f"{name}, {moment}")
            ax.title.set_fontsize(7.5)
            ax.set_xlabel(f"token read (largest |P|: {np.abs(P).max():.2g})")
            ax.xaxis.label.set(fontsize=7, color=MUTED)
            ax.set_xticks(range(0, len(P), 3), range(1, len(P) + 1, 3), fontsize=7)
            ax.set_yticks(range(0, len(P), 3), range(1, len(P) + 1, 3), fontsize=7)
        row[0].set_ylabel("token that reads", fontsize=8, color=MUTED)
    color_bar(figure, image, grid, "share of |P| in its row", shrink=0.6, pad=0.02)
    return figure


def growth_factors(portraits) -> Figure:
    """Draw how far later tokens lead in slow divergence, over the decay rate."""
    seen = portraits.factors
    figure = new_figure(6.4, 4.2)
    ax = figure.subplots()
    _token_lines(ax, seen.rates, seen.factors)
    for i, (late, early) in enumerate(zip(seen.factors.T, seen.earlier.T, strict=True)):
        ax.fill_between(seen.rates, early, late, color=TOKENS[i], alpha=0.25, lw=0)
        ax.plot(seen.rates, late, ".", color=TOKENS[i], ms=4)
    _axes(ax, "μ = 1, s = −1, equal tokens", "decay rate a", "C = lim |x| / |x₁|", "xy")
    ticks = {"x": (0.25, 0.5, 1, 2, 4, 8, 16), "y": (1, 2, 5, 10, 20, 50)}
    for name, axis in {"x": ax.xaxis, "y": ax.yaxis}.items():
        axis.set_ticks(ticks[name], [f"{v:g}" for v in ticks[name]])
        axis.set_ticks([], minor=True)
    ax.legend(frameon=False, fontsize=8)
    return figure


def _token_lines(ax: Axes, x, y) -> None:
    """Draw a line per token (last axis), labelled once per picture."""
    labelled = bool(ax.get_lines())
    for i in range(y.shape[1]):
        label = None if labelled else f"token {i + 1}"
        ax.plot(x, y[:, i], color=TOKENS[i], linewidth=1.6, label=label)


def _note(ax: Axes, text: str, where, offset, align: str) -> None:
    ax.annotate(
        text, where, xytext=offset, textcoords="offset points", fontsize=8,
        color=MUTED, ha=align,
    )  # fmt: skip


def _label_lines(ax: Axes, names: dict[str, float]) -> None:
    """Name lines at their heights on the right, apart where they are close."""
    low, high = ax.get_ylim()
    apart, place = 0.05 * (high - low), -np.inf
    for name, height in sorted(names.items(), key=lambda item: item[1]):
        place = max(height, place + apart)
        ax.annotate(
            name, (1.01, place), xycoords=("axes fraction", "data"), va="center",
            fontsize=8, color=MUTED, annotation_clip=False,
        )  # fmt: skip


def _axes(ax: Axes, title: str, x: str, y: str, log: str = "") -> None:
    frame(ax, title, sides=("left", "bottom"))
    ax.set_xlabel(x, fontsize=8, color=MUTED)
    ax.set_ylabel(y, fontsize=8, color=MUTED)
    if "x" in log:
        ax.set_xscale("log")
    if "y" in log:
        ax.set_yscale("log")
    ax.tick_params(which="both", labelsize=7)
    ax.grid(**GRID)
    ax.set_axisbelow(True)
