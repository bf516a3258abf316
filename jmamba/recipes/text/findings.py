"""What becomes of the papers' rankings in sentences: holds, fails or undecided."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jmamba.evaluation import Comparison, compare_over_seeds, rank_correlation
from jmamba.recipes.text.methods import LARGEST, RELEASED, SMALLEST, UNCLAMPED
from jmamba.recipes.text.operators import OPERATORS
from jmamba.recipes.text.tables import METRICS, Found, say_interval, stack_metric
from jmamba.recipes.verdicts import decide
from jmamba.recipes.workbench import Workbench

LOWER_IS_BETTER = ("au_mse",)


class Ranking(NamedTuple):
    """A ranking that a paper reports: the first method is better than the second."""

    source: str
    metric: str
    better: str
    worse: str


_LRP, _HIDDEN = "MambaLRP (2024), table 1", "Hidden Attention (ACL 2025), table 9"
_ATTRIBUTION = "mamba_attribution"
CLAIMS = (
    Ranking(_LRP, "flipping", "mamba_lrp", _ATTRIBUTION),
    Ranking(_LRP, "flipping", "mamba_lrp", f"{_ATTRIBUTION}, {RELEASED}"),
    Ranking(_LRP, "flipping", "mamba_lrp", "integrated_gradients"),
    Ranking(_LRP, "flipping", "mamba_lrp", "gradient_x_input"),
    Ranking(_LRP, "flipping", "smooth_grad", "gradient_x_input"),
    Ranking(_LRP, "flipping", _ATTRIBUTION, "attention_rollout"),
    Ranking(_LRP, "flipping", "attention_rollout", "random"),
    Ranking(
        "Unified formulation, ARC-Easy", "auac", "unified_attribution", _ATTRIBUTION
    ),
    Ranking(_HIDDEN, "auac", _ATTRIBUTION, f"{_ATTRIBUTION}, {UNCLAMPED}"),
    Ranking(_HIDDEN, "au_mse", _ATTRIBUTION, f"{_ATTRIBUTION}, {UNCLAMPED}"),
    Ranking(_HIDDEN, "auac", _ATTRIBUTION, f"{_ATTRIBUTION}, {LARGEST}"),
    Ranking(
        _HIDDEN, "auac", f"{_ATTRIBUTION}, {LARGEST}", f"{_ATTRIBUTION}, {SMALLEST}"
    ),
)
"""Rankings that are looked for here."""

PUBLISHED = {
    "random": -0.012,
    "gradient_x_input": 0.078,
    "smooth_grad": 1.377,
    "integrated_gradients": 0.857,
    "attention_rollout": 0.657,
    _ATTRIBUTION: 1.190,
    "mamba_lrp": 1.978,
}
"""Delta A^F on SST-2 with Mamba-130M: Jafari et al., arXiv 2406.07592, table 1."""


def check(
    claim: Ranking, found: Found, chosen: Mapping[str, str], removal: str
) -> Comparison:
    """Return by how much the method that is better in a paper is better here.

    Args:
      claim: a paper's ranking.
      found: what was measured with each method and model.
      chosen: method -> its reading.
      removal: how words are taken out.
    """
    better, worse = (
        stack_metric(found[name], chosen[name], claim.metric, removal)
        for name in (claim.better, claim.worse)
    )
    gain = better - worse
    return compare_over_seeds(
        np.mean, -gain if claim.metric in LOWER_IS_BETTER else gain
    )


def agree_all(verdicts: Sequence[str]) -> str:
    """Return the verdict of all ways of taking words out: theirs, if it is one.

    Examples:
      >>> agree_all(["holds", "holds"]), agree_all(["holds", "undecided here"])
      ('holds', 'undecided here')
    """
    return verdicts[0] if len(set(verdicts)) == 1 else "undecided here"


def write_text_findings(
    found: Found, chosen: Mapping[str, str], bench: Workbench
) -> None:
    """Add a table of what the papers claim and what was found here."""
    gains = [check(c, found, chosen, removal) for c in CLAIMS for removal in OPERATORS]
    verdicts, count = decide(gains), len(OPERATORS)
    rows = []
    for number, claim in enumerate(CLAIMS):
        own = slice(number * count, (number + 1) * count)
        cells = [
            f"{say_interval(gain)} {verdict}"
            for gain, verdict in zip(gains[own], verdicts[own], strict=True)
        ]
        heading = METRICS[claim.metric]
        rows.append([claim.source, heading, claim.better, claim.worse, *cells,
                     agree_all(verdicts[own])])  # fmt: skip
    columns = ["paper", "score", "better there", "worse there",
               *(f"better by, {removal}" for removal in OPERATORS), "so"]  # fmt: skip
    bench.write_table("The papers' rankings", columns, rows)
    bench.write_text(
        "Readings are those chosen on validation sentences. holds: better here too; "
        "fails: worse here; each in these classifiers, after Holm's correction over "
        f"all {len(gains)} differences, and for both ways of taking words out. "
        + compare_with_published(found, chosen)
    )


def compare_with_published(found: Found, chosen: Mapping[str, str]) -> str:
    """Return in words how the order of methods compares with MambaLRP's table 1."""
    says = []
    for removal in OPERATORS:
        means = [
            stack_metric(found[name], chosen[name], "flipping", removal).mean()
            for name in PUBLISHED
        ]
        rank = rank_correlation(np.array(means), np.array(list(PUBLISHED.values())))
        says.append(f"{rank:.2f} ({removal})")
    return (
        f"Over the {len(PUBLISHED)} methods of MambaLRP's table 1 that are here, ΔA^F "
        f"and the table's on SST-2 have a rank correlation of {' and '.join(says)}."
    )
