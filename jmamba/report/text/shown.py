"""What the view of an explained text shows."""

import numpy as np

from jmamba.report.text.explanation import Explanation, shares
from jmamba.report.view.maps import PairMap, Series, name_layers
from jmamba.report.view.view import TokenView
from jmamba.report.words import quote

ABOUT = {
    "hidden attention": "Hidden attention is mean |α| over channels.",
    "unified attention": "Unified attention is mean |gate (α + D) slope conv| over "
    "channels: convolution, SiLU, skip and gate folded in.",
    "rollout": "Rollout multiplies I + mean α over all layers; magnitudes of it.",
    "Jacobian": "The Jacobian says how far a token's end moves with another's start, "
    "through all layers.",
}
"""What is measured between tokens, in plain words."""


def view_of(explanation: Explanation) -> TokenView:
    """Return the view of a text: what counted, and which tokens read which."""
    return TokenView(
        name="The text",
        pieces=explanation.pieces,
        labels=explanation.piece_labels,
        series=series_of(explanation),
        maps=maps_of(explanation),
        after=explanation.predictions.labels[0],
        left_out=explanation.settings.get("skipped", {}),
    )


def series_of(explanation: Explanation) -> list[Series]:
    """Return what each token did for what is explained, by every method."""
    explained = " rather than ".join(map(quote, explanation.question.labels))
    words = f"speaks for {explained}", f"speaks against {explained}"
    drivers = Series("leaving each out", explanation.drivers[None], "bits", *words)
    return [
        drivers,
        *(
            Series(name.replace("_", " "), explanation.by_piece(v)[None], "", *words)
            for name, v in explanation.relevance.items()
        ),
    ]


def maps_of(explanation: Explanation) -> list[PairMap]:
    """Return what tokens read of each other, the most important first."""
    found, layers = explanation, name_layers(range(len(explanation.last_attention)))
    attention = found.attention
    if attention is None:
        attention = found.last_attention[:, None]
    maps = [_map(found, "hidden attention", attention, layers)]
    if found.rollout is not None:
        maps.append(_map(found, "rollout", found.rollout[None]))
    if found.jacobian is not None:
        maps.append(_map(found, "Jacobian", found.jacobian[None]))
    if found.folded is not None:
        maps.append(_map(found, "unified attention", found.folded, layers))
    for of, values in found.groups.items():
        maps.append(_map(found, "hidden attention", values, layers)._replace(of=of))
    return maps


def _map(explanation, name, values, layers=()):
    """Return shares between pieces of values between tokens."""
    ends = np.array([piece.stop - 1 for piece in explanation.pieces])
    rows = values if values.shape[1] == 1 else values[:, ends]
    by_piece = shares(np.abs(explanation.by_piece(rows)))
    return PairMap(name, by_piece, layers, about=ABOUT[name])
