"""The picture of a comparison: both explanations beside each other."""

from matplotlib.figure import Figure

from jmamba.figures.canvas import INK, PAGE_WIDTH, new_figure
from jmamba.figures.fonts import drawable, plain_text
from jmamba.figures.labels import shorten
from jmamba.report.compare.measure import TextComparison
from jmamba.report.shared_figures import fill_predictions
from jmamba.report.text.figures import fill_drivers


def draw_comparison(both: TextComparison) -> Figure:
    """Draw what each expects and what drove it, in two columns on one scale."""
    count = max(len(one.predictions.ids) for _, one in both.pairs)
    heights = [0.28 * count + 0.7, 2.0, 1.4]
    figure = new_figure(PAGE_WIDTH, sum(heights) + 0.6)
    grid = figure.subplots(3, 2, height_ratios=heights)
    for column, (name, one) in enumerate(both.pairs):
        best, upper, lower = grid[:, column]
        lower.sharex(upper)
        upper.tick_params(axis="x", labelbottom=False)
        fill_predictions(best, one.predictions)
        fill_drivers(upper, lower, one, PAGE_WIDTH / 2 - 0.9)
        titles = {best: name, upper: f"what drove {one.explained}"}
        for ax, title in titles.items():
            text = ax.set_title(shorten(drawable(title), 44), fontsize=9, loc="left")
            plain_text(text, mono=False, fontsize=9, color=INK)
    for left, right in grid[1:]:  # bars of both are as long for as much
        left.set_ylim(_common(left.get_ylim(), right.get_ylim()))
        right.sharey(left)
        right.set_ylabel("")
    widest = _common(grid[0, 0].get_xlim(), grid[0, 1].get_xlim())
    for ax in grid[0]:
        ax.set_xlim(widest)
    return figure


def _common(one, other):
    """Return the limits that hold two pairs of them."""
    return min(one[0], other[0]), max(one[1], other[1])
