"""Where the vision results agree with the papers, and where they do not."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jmamba.recipes.verdicts import judge
from jmamba.recipes.vision.scores import compare, say
from jmamba.recipes.workbench import Workbench


class Claim(NamedTuple):
    """A ranking that a paper reports: the first is better than the second.

    Attributes:
      source: where.
      score: by what it is measured.
      better, worse: (model, method) of each.
    """

    source: str
    score: str
    better: tuple[str, str]
    worse: tuple[str, str]


_ATTRIBUTION, _LRP = ("vim", "mamba_attribution"), ("vim", "mamba_lrp")
_ROLLOUT, _RAW = ("vim", "attention_rollout"), ("vim", "raw_attention")
_HIDDEN = "Hidden Attention (ACL 2025)"
CLAIMS = (
    Claim("MambaLRP (2024), table 1", "flipping", _LRP, _ATTRIBUTION),
    Claim(f"{_HIDDEN}, table 2", "mIoU", _ATTRIBUTION, _LRP),
    Claim(f"{_HIDDEN}, table 2", "mIoU", _ATTRIBUTION, _ROLLOUT),
    Claim(f"{_HIDDEN}, table 2", "mIoU", _ROLLOUT, _RAW),
    Claim(f"{_HIDDEN}, table 1", "positive AUC", _ATTRIBUTION, _RAW),
    Claim(f"{_HIDDEN}, table 1", "negative AUC", _ROLLOUT, _ATTRIBUTION),
    Claim(
        f"{_HIDDEN}, table 1",
        "positive AUC",
        ("vit", "transformer_attribution"),
        _ATTRIBUTION,
    ),
    Claim(
        f"{_HIDDEN}, table 2", "mIoU", ("vit", "transformer_attribution"), _ATTRIBUTION
    ),
    Claim(f"{_HIDDEN}, table 2", "mIoU", _RAW, ("vit", "raw_attention")),
    Claim(f"{_HIDDEN}, table 2", "mIoU", _ROLLOUT, ("vit", "attention_rollout")),
)
"""Rankings on ImageNet that are looked for here."""


def write_vision_findings(
    found: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], bench: Workbench
) -> None:
    """Add a table of what the papers claim and what was found here."""
    rows = []
    for claim in CLAIMS:
        first, second = (found[k][m] for k, m in (claim.better, claim.worse))
        difference = compare(first, second, claim.score)
        rows.append([
            claim.source, claim.score, _name(claim.better), _name(claim.worse),
            say(difference, percent=claim.score != "flipping"), judge(difference),
        ])  # fmt: skip
    columns = ["paper", "score", "better there", "worse there",
               "better by, here", "so here"]  # fmt: skip
    bench.write_table("The papers' rankings", columns, rows)


def _name(key: tuple[str, str]) -> str:
    return f"{ {'vim': 'Vim', 'vit': 'ViT'}[key[0]] } {key[1].replace('_', ' ')}"
