"""Pictures of how explanations of sentences do: curves, and coloured words."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from jmamba.evaluation import STEPS
from jmamba.figures.canvas import (
    AGAINST,
    INK,
    MUTED,
    TOWARD,
    color_bar,
    frame,
    new_figure,
)
from jmamba.figures.fonts import plain_text
from jmamba.recipes.text.baselines import MODEL_FREE

DRAWN = {
    "random": "#9aa3af",
    "polarity of words": "#c51b7d",
    "leave one out, deleted": "#1f2430",
    "raw_attention": "#8c6bb1",
    "attention_rollout": "#41ab5d",
    "mamba_attribution": "#2b6cb0",
    "mamba_attribution, released code": "#6baed6",
    "mamba_lrp": "#d95f0e",
    "integrated_gradients": "#e6ab02",
}
"""Methods that get a line, and its colour."""


def draw_removal(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Draw activation and pruning curves of some methods.

    Args:
      curves: method -> both curves.
    """
    figure = new_figure(9.6, 3.6)
    axes = figure.subplots(1, 2)
    titles = ("words restored: p of the right class", "words pruned: squared change")
    marks = ("share of words restored", "share of words pruned")
    for side, ax in enumerate(axes):
        for name, color in DRAWN.items():
            if name in curves:
                dashed = "--" if name in MODEL_FREE else "-"
                ax.plot(STEPS, curves[name][side], dashed, color=color, label=name)
        frame(ax, titles[side], sides=("left", "bottom"))
        ax.set_xlabel(marks[side], fontsize=8, color=MUTED)
        ax.tick_params(labelsize=7)
        ax.grid(color="#e3e7ee", linewidth=0.6)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside right center", fontsize=7, frameon=False
    )
    return figure


def draw_sentence(
    words: Sequence[str], relevance: Mapping[str, Sequence[float]]
) -> Figure:
    """Draw the relevance of a sentence's words, a row per method.

    Args:
      words: of the sentence.
      relevance: method -> relevance of each word.
    """
    rows = np.array([np.asarray(row) for row in relevance.values()])
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows = rows / np.where(largest > 0, largest, 1)
    height, width = rows.shape
    figure = new_figure(0.55 * width + 3.4, 0.24 * height + 1.1)
    ax = figure.subplots()
    colors = LinearSegmentedColormap.from_list("polar", [AGAINST, "white", TOWARD])
    image = ax.imshow(rows, cmap=colors, vmin=-1, vmax=1, aspect="auto")
    frame(ax, "")
    ax.set_yticks(range(height), list(relevance), fontsize=7, color=INK)
    ax.set_xticks(range(width), list(words))
    for text in ax.get_xticklabels():
        plain_text(text, fontsize=8, rotation=45, ha="right", rotation_mode="anchor")
    ax.tick_params(length=0)
    color_bar(figure, image, ax, "relevance / largest", pad=0.01)
    return figure
