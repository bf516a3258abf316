"""What the pictures of a text's explanation show, in words and numbers."""

import numpy as np

from jmamba.report.text.explanation import Explanation
from jmamba.report.words import describe_layers, describe_pairs, list_largest, quote


def describe_drivers(explanation: Explanation) -> str:
    """Name the pieces that drove the prediction most."""
    best = quote(explanation.predictions.labels[0])
    found = list_largest(explanation.piece_labels, explanation.drivers, " bits")
    return f"strongest for or against {best}: {found}"


def describe_last_token(explanation: Explanation) -> str:
    """Name the pieces that the last token reads most."""
    share = 100 * explanation.by_piece(explanation.mean_share)
    found = list_largest(explanation.piece_labels, share, " %")
    return f"the last token, {quote(explanation.labels[-1])}, reads most: {found}"


def describe_maps(explanation: Explanation) -> str:
    """Name the strongest links of the chosen layers."""
    assert explanation.attention is not None
    return describe_pairs(explanation.attention, explanation.layers, explanation.labels)


def describe_depth(explanation: Explanation) -> str:
    """Say how strong the strongest link of each layer is."""
    assert explanation.attention is not None
    return "the largest " + describe_layers(explanation.attention.max(axis=(1, 2)))


def describe_jacobian(explanation: Explanation) -> str:
    """Name the pair of tokens of the largest block."""
    assert explanation.jacobian is not None
    norms, labels = explanation.jacobian, explanation.labels
    i, j = map(int, np.unravel_index(np.argmax(norms), norms.shape))
    return (
        f"largest, {norms[i, j]:.3g}, is what the end of token {i}, "
        f"{quote(labels[i])}, takes from the start of token {j}, {quote(labels[j])}"
    )
