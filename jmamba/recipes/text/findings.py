"""Where the results on text agree with the papers, and where they do not."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jmamba.evaluation import Interval, bootstrap_interval, rank_correlation
from jmamba.recipes.text.methods import LARGEST, RELEASED, SMALLEST, UNCLAMPED
from jmamba.recipes.verdicts import judge
from jmamba.recipes.workbench import Workbench

METRICS = {
    "auac": "AUAC ↑",
    "au_mse": "AU-MSE ↓",
    "flipping": "ΔA^F ↑",
    "insertion": "ΔA^I ↑",
}
"""Metric -> its heading, with an arrow to where it is good."""

LOWER_IS_BETTER = ("au_mse",)

Values = Mapping[str, Mapping[str, np.ndarray]]
"""Metric -> method -> (seeds, sentences)."""


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
    "mamba_attribution": 1.190,
    "mamba_lrp": 1.978,
}
"""Delta A^F on SST-2 with Mamba-130M: Jafari et al., arXiv 2406.07592, table 1."""


class Finding(NamedTuple):
    """What became of a claim.

    Attributes:
      claim: the claim.
      gain: by how much the better one is better here, with its interval.
      models: with how many models it is better.
    """

    claim: Ranking
    gain: Interval
    models: int


def check(claim: Ranking, values: Values) -> Finding:
    """Compare two methods on the same sentences, which are drawn again together.

    Examples:
      >>> claim = Ranking("paper", "au_mse", "a", "b")
      >>> values = {"au_mse": {"a": np.zeros((2, 5)), "b": np.ones((2, 5))}}
      >>> check(claim, values)[1:]
      (Interval(value=1.0, low=1.0, high=1.0), 2)
    """
    found = values[claim.metric]
    gain = found[claim.better] - found[claim.worse]
    gain = -gain if claim.metric in LOWER_IS_BETTER else gain
    interval = bootstrap_interval(np.mean, gain.mean(axis=0))
    return Finding(claim, interval, int((gain.mean(axis=1) > 0).sum()))


def write_text_findings(values: Values, bench: Workbench) -> None:
    """Add a table of what the papers claim and what was found here, and a summary."""
    findings = [check(claim, values) for claim in CLAIMS]
    seeds = len(values["flipping"]["random"])
    rows = [
        [claim.source, METRICS[claim.metric], claim.better, claim.worse,
         say_difference(gain),         f"{models} of {seeds}", judge(gain)]
        for claim, gain, models in findings
    ]  # fmt: skip
    columns = ["paper", "score", "better there", "worse there", "better by, here",
               "with models", "so here"]  # fmt: skip
    bench.write_table("The papers' rankings", columns, rows)
    means = {name: float(v.mean()) for name, v in values["flipping"].items()}
    bench.write_text(summarise(findings, means))


def summarise(findings: Sequence[Finding], means: Mapping[str, float]) -> str:
    """Return in words what agrees and what does not.

    Args:
      findings: of all claims.
      means: delta A^F of each method.
    """
    parts = []
    for verdict, opening in _OPENINGS.items():
        pairs = [
            f"{one.claim.better} over {one.claim.worse} "
            f"({METRICS[one.claim.metric][:-2]})"
            for one in findings
            if judge(one.gain) == verdict
        ]
        if pairs:
            count = f"{len(pairs)} of {len(findings)}"
            parts.append(f"{opening} {count}: {'; '.join(pairs)}.")
    ours = np.array([means[name] for name in PUBLISHED])
    rank = rank_correlation(ours, np.array(list(PUBLISHED.values())))
    best = sorted(means, key=lambda name: -means[name])[:3]
    parts.append(
        f"Over the {len(ours)} methods of MambaLRP's table 1 that are here, ΔA^F on "
        f"our sentences and on SST-2 have a rank correlation of {rank:.2f}. The three "
        f"highest ΔA^F are those of {', '.join(best)}."
    )
    return " ".join(parts)


_OPENINGS = {
    "agrees": "Our sentences agree with the papers on",
    "contradicts": "They contradict",
    "not decided": "They do not decide",
}


def say_difference(interval: Interval) -> str:
    """Return an interval as text with three decimals.

    Examples:
      >>> say_difference(Interval(0.5, 0.25, 0.75))
      '0.500 [0.250, 0.750]'
    """
    return "{:.3f} [{:.3f}, {:.3f}]".format(*interval)
