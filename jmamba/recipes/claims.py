"""What papers rank, held against what was measured here."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jmamba.evaluation import Interval, bootstrap_interval


class Claim(NamedTuple):
    """One method does better than another in a paper.

    Attributes:
      better, worse: names of the methods.
      metric: what is compared.
      source: where the paper says so.
      lower: whether low is good.
    """

    better: str
    worse: str
    metric: str
    source: str
    lower: bool = False


class Finding(NamedTuple):
    """What became of a claim.

    Attributes:
      claim: what was claimed.
      gain: by how much the better one is better here, with its interval.
      verdict: "agrees", "disagrees", or "undecided" where the interval holds 0.
      seeds: in how many of the models it is better.
    """

    claim: Claim
    gain: Interval
    verdict: str
    seeds: int


def judge(claim: Claim, scores: Mapping[str, np.ndarray]) -> Finding:
    """Say whether a claim holds.

    Args:
      claim: the claim.
      scores: method -> (seeds, samples), the claim's metric. Seeds are averaged; the
        interval is over samples, which both methods share.

    Examples:
      >>> claim = Claim("a", "b", "auac", "paper")
      >>> judge(claim, {"a": np.ones((2, 5)), "b": np.zeros((2, 5))})[1:]
      (Interval(value=1.0, low=1.0, high=1.0), 'agrees', 2)
    """
    gain = scores[claim.better] - scores[claim.worse]
    gain = -gain if claim.lower else gain
    interval = bootstrap_interval(np.mean, gain.mean(axis=0))
    agrees = interval.low > 0
    verdict = "agrees" if agrees else "disagrees" if interval.high < 0 else "undecided"
    return Finding(claim, interval, verdict, int((gain.mean(axis=1) > 0).sum()))


def summarise(findings: Sequence[Finding], seeds: int) -> str:
    """Return a paragraph that names what agrees and what does not.

    Args:
      findings: of all claims.
      seeds: how many models there are.
    """
    parts = []
    for verdict, opening in _OPENINGS.items():
        chosen = [one for one in findings if one.verdict == verdict]
        if chosen:
            listed = "; ".join(_phrase(one, seeds) for one in chosen)
            parts.append(f"{opening} ({len(chosen)} of {len(findings)}): {listed}.")
    return " ".join(parts)


_OPENINGS = {
    "agrees": "In agreement with the papers",
    "disagrees": "Against the papers",
    "undecided": "Not decided here, as the interval of the difference holds 0",
}


def _phrase(finding: Finding, seeds: int) -> str:
    claim, gain = finding.claim, finding.gain
    better, worse = claim.better, claim.worse
    if finding.verdict == "disagrees":
        better, worse, gain = worse, better, Interval(*(-x for x in gain))
        gain = Interval(gain.value, gain.high, gain.low)
    count = finding.seeds if finding.verdict != "disagrees" else seeds - finding.seeds
    return (
        f"{better} before {worse} in {claim.metric} ({claim.source}) by "
        f"{gain.value:.3f} [{gain.low:.3f}, {gain.high:.3f}], with {count} of {seeds} "
        "models"
    )
