"""The pictures of patches: what each shows, in plain words."""

from jmamba.report.patch import figures
from jmamba.report.patch.report import PatchReport
from jmamba.report.plate import Plate
from jmamba.report.words import quote


def _describe_patches(report: PatchReport) -> str:
    """Name the patches that bring most back."""
    return "most: " + ", ".join(
        f"{100 * report.recovered[row, token]:.3g} % at {report.row_labels[row]}, "
        f"token {token} {quote(report.labels[token])}"
        for row, token in report.strongest(3)
    )


def _describe_estimate(report: PatchReport) -> str:
    """Say how good the estimate is."""
    return (
        f"Pearson's correlation is {report.error.correlation:.3f}; at worst the "
        f"estimate is off by {100 * report.error.worst:.3g} % of the largest change"
    )


PATCH_PLATES = (
    Plate(
        "patches",
        "What brings the answer back",
        "Each cell is a run on the corrupted text into which one vector of the clean "
        "run was put: that of this layer and token. Deep orange: this one brings "
        "the whole answer back. Orange names on top are tokens of the corrupted text "
        "where it differs. The lower map guesses the same from a single gradient; its "
        "colours end where those of the upper one do.",
        "(logit patched − logit corrupted) / (logit clean − logit corrupted)",
        ("recovered", "recovered_estimated"),
        figures.draw_patches,
        says=_describe_patches,
    ),
    Plate(
        "estimate",
        "How far the estimate can be trusted",
        "Each point is a patch. On the line the gradient foretells what it does; where "
        "points leave it, only the run tells.",
        "(clean − corrupted) · ∂ logit / ∂ value, of the corrupted run",
        ("recovered", "recovered_estimated"),
        figures.draw_estimate,
        says=_describe_estimate,
    ),
)
