"""What the papers say of explanations of pictures, and what came out here."""

from typing import NamedTuple

from jmamba.recipes.verdicts import decide
from jmamba.recipes.vision.measuring import Found
from jmamba.recipes.vision.scores import compare, say
from jmamba.recipes.vision.tables import Choice, name_row
from jmamba.recipes.workbench import Workbench


class Claim(NamedTuple):
    """A ranking: the first is better than the second.

    Attributes:
      source: where it is said.
      score: by what it is measured.
      better, worse: (model, method) of each.
    """

    source: str
    score: str
    better: tuple[str, str]
    worse: tuple[str, str]


_ATTRIBUTION, _LRP = ("vim", "mamba_attribution"), ("vim", "mamba_lrp")
_ROLLOUT, _RAW = ("vim", "attention_rollout"), ("vim", "raw_attention")
_UNIFIED = ("vim", "unified_attribution")
_VIT = ("vit", "transformer_attribution")
_HIDDEN, _LRP_PAPER = "Hidden Attention (ACL 2025)", "MambaLRP (2024), table 1"
_UNIFIED_PAPER = "Unified attention (ICLR 2025)"
_FIRST, _SECOND = f"{_HIDDEN}, table 1", f"{_HIDDEN}, table 2"
CLAIMS = (
    *(
        Claim(_LRP_PAPER, "flipping", _LRP, worse)
        for worse in (
            _ATTRIBUTION,
            _ROLLOUT,
            *(
                ("vim", m)
                for m in ("integrated_gradients", "smooth_grad", "gradient_x_input")
            ),  # fmt: skip
        )
    ),
    Claim(_FIRST, "black positive", _ATTRIBUTION, _RAW),
    Claim(_FIRST, "black positive", _RAW, _ROLLOUT),
    Claim(_FIRST, "black positive", _VIT, _ATTRIBUTION),
    Claim(_FIRST, "black positive", _RAW, ("vit", "raw_attention")),
    Claim(_FIRST, "black positive", _ROLLOUT, ("vit", "attention_rollout")),
    Claim(_FIRST, "black negative", _ROLLOUT, _ATTRIBUTION),
    Claim(_FIRST, "black negative", _ATTRIBUTION, _RAW),
    Claim(_FIRST, "black negative", _ROLLOUT, _RAW),
    Claim(_FIRST, "black negative", _VIT, _ATTRIBUTION),
    Claim(_FIRST, "black negative", ("vit", "raw_attention"), _RAW),
    Claim(_FIRST, "black negative", ("vit", "attention_rollout"), _ROLLOUT),
    Claim(_SECOND, "mIoU", _ATTRIBUTION, _ROLLOUT),
    Claim(_SECOND, "mIoU", _ROLLOUT, _RAW),
    Claim(_SECOND, "mIoU", _RAW, ("vit", "raw_attention")),
    Claim(_SECOND, "mIoU", _ROLLOUT, ("vit", "attention_rollout")),
    Claim(_SECOND, "mIoU", _VIT, _ATTRIBUTION),
    Claim(_SECOND, "mIoU", _ATTRIBUTION, _LRP),
    Claim(_SECOND, "mIoU", _ROLLOUT, _LRP),
    Claim(_SECOND, "mIoU", _LRP, _RAW),
    Claim(_UNIFIED_PAPER, "flipping", _UNIFIED, _ATTRIBUTION),
    Claim(_UNIFIED_PAPER, "mIoU", _UNIFIED, _ATTRIBUTION),
)
"""Rankings that are looked for here."""


def write_findings(test: Found, choice: Choice, bench: Workbench) -> None:
    """Add a table of what is claimed and what came out, corrected for all claims."""
    rows = [
        tuple(choice.reading(*key, claim.score) for key in (claim.better, claim.worse))
        for claim in CLAIMS
    ]
    differences = [
        compare(test[first], test[second], claim.score)
        for claim, (first, second) in zip(CLAIMS, rows, strict=True)
    ]
    table = [
        [claim.source, claim.score, " ".join(name_row(first)),
         " ".join(name_row(second)), say(difference, claim.score), verdict]
        for claim, (first, second), difference, verdict in zip(
            CLAIMS, rows, differences, decide(differences), strict=True
        )
    ]  # fmt: skip
    columns = ["said by", "score", "better there", "worse there",
               "better by, here", "so here"]  # fmt: skip
    bench.write_table("The papers' rankings", columns, table)
