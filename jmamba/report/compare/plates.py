"""The picture of a comparison, in plain words."""

from jmamba.report.compare.figures import draw_comparison
from jmamba.report.compare.measure import TextComparison
from jmamba.report.plate import Plate
from jmamba.report.words import describe_predictions, list_largest


def _describe_comparison(both: TextComparison) -> str:
    """Say what each expects, and what drove it."""
    return ". ".join(
        f"{name}: expects {describe_predictions(one.predictions)}; driven by "
        f"{list_largest(one.piece_labels, one.drivers, ' bits')}"
        for name, one in both.pairs
    )


COMPARISON_PLATES = (
    Plate(
        "comparison",
        "Both beside each other",
        "Above: the likeliest next tokens of each. Below: what drove what is explained "
        "of each, in bits lost without a token and by the method that was asked for; "
        "orange speaks for it, blue against it. Columns share their scales.",
        "log₂ p(target | text) − log₂ p(target | text without j)",
        ("first_left_out", "second_left_out"),
        draw_comparison,
        needs="first",
        says=_describe_comparison,
    ),
)
"""The pictures of a comparison."""
