"""The pictures of a report: how each is drawn, and what it shows in plain words."""

import numpy as np

from jmamba.report.plate import ALPHA, Plate
from jmamba.report.shared_figures import draw_predictions, draw_token_norms
from jmamba.report.text import figures
from jmamba.report.text.explanation import Explanation
from jmamba.report.words import (
    describe_layers,
    describe_norms,
    describe_pairs,
    describe_predictions,
    list_largest,
    quote,
)


def _describe_drivers(explanation: Explanation) -> str:
    """Name the pieces that drove the prediction most."""
    best = quote(explanation.predictions.labels[0])
    found = list_largest(explanation.piece_labels, explanation.drivers, " bits")
    return f"strongest for or against {best}: {found}"


def _describe_last_token(explanation: Explanation) -> str:
    """Name the pieces that the last token reads most."""
    share = 100 * explanation.by_piece(explanation.mean_share)
    found = list_largest(explanation.piece_labels, share, " %")
    return f"the last token, {quote(explanation.labels[-1])}, reads most: {found}"


def _describe_maps(explanation: Explanation) -> str:
    """Name the strongest links of the chosen layers."""
    assert explanation.attention is not None
    return describe_pairs(explanation.attention, explanation.layers, explanation.labels)


def _describe_depth(explanation: Explanation) -> str:
    """Say how strong the strongest link of each layer is."""
    assert explanation.attention is not None
    return "the largest " + describe_layers(explanation.attention.max(axis=(1, 2)))


def _describe_jacobian(explanation: Explanation) -> str:
    """Name the pair of tokens of the largest block."""
    assert explanation.jacobian is not None
    norms, labels = explanation.jacobian, explanation.labels
    i, j = map(int, np.unravel_index(np.argmax(norms), norms.shape))
    return (
        f"largest, {norms[i, j]:.3g}, is what the end of token {i}, "
        f"{quote(labels[i])}, takes from the start of token {j}, {quote(labels[j])}"
    )


TEXT_PLATES = (
    Plate(
        "predictions",
        "What the model predicts",
        "The longer the bar, the surer the model is of this next token, or class.",
        "p = softmax(logits read off the last token)",
        ("prediction_ids", "prediction_probabilities"),
        lambda found: draw_predictions(found.predictions),
        says=lambda found: describe_predictions(found.predictions),
    ),
    Plate(
        "drivers",
        "What drove the prediction",
        "Above: the text is read again without the token. An orange bar of 3 bits "
        "says that without it the prediction is 2³ = 8 times less likely; a blue bar "
        "says that the token spoke against it. Below: what a method of explanation "
        "assigns to each token without leaving it out. Where the two disagree, trust "
        "the upper bars: they are what the model does.",
        "above: log₂ p(target | text) − log₂ p(target | text without j), of two "
        "targets the difference; below: relevance by the method that was asked for",
        (),  # those of the method that was asked for
        figures.draw_drivers,
        says=_describe_drivers,
    ),
    Plate(
        "last_token_attention",
        "Where the last token looks",
        "Hidden attention says how much each earlier token enters what a layer's "
        "recurrence puts out at the last token. Every row of the strip is a layer; its "
        "shares add up to 100 %. The bars on top average them over layers.",
        f"{ALPHA}, i the last token; |α| averaged over channels",
        ("last_attention",),
        figures.draw_last_token,
        says=_describe_last_token,
    ),
    Plate(
        "attention_maps",
        "Hidden attention of chosen layers",
        "Each row is a token that reads, each column a token that is read; bright "
        "means more. A bright diagonal is a layer that looks at its neighbours, bright "
        "columns are tokens that many later ones keep reading. Nothing can be read "
        "ahead of time, hence the empty corner.",
        f"{ALPHA}; |α| averaged over channels",
        ("attention", "chosen_layers"),
        figures.draw_attention_maps,
        "attention",
        says=_describe_maps,
    ),
    Plate(
        "attention_depth",
        "Hidden attention through depth",
        "The same maps for every layer, each on its own scale so that weak layers show "
        "too. Layers with a dot are the ones drawn large above.",
        "mean |α| divided by the layer's largest value",
        ("attention",),
        figures.draw_attention_depth,
        "attention",
        says=_describe_depth,
    ),
    Plate(
        "token_norms",
        "Token norms through depth",
        "How long each token's vector in the residual stream is after every layer. "
        "Growing lines are tokens that the layers keep adding to; a line that stays "
        "flat is a token that is left alone.",
        "‖x after layer k, token i‖₂",
        ("residual_norms",),
        draw_token_norms,
        says=lambda found: describe_norms(found.norms),
    ),
    Plate(
        "jacobian_norms",
        "How a token's end depends on another's start",
        "Bright means that a small change of the input token's embedding moves the "
        "output token's last vector a lot, through all layers and every path: "
        "attention, gates, step sizes and norms. Hidden attention holds these still; "
        "this does not. Norms are estimated with random directions (probes, see the "
        "settings below), so single pixels may be off by a tenth or more.",
        "‖∂ x_out[i] / ∂ x_in[j]‖, Frobenius norm of a d_model × d_model block",
        ("jacobian_norms",),
        figures.draw_jacobian_norms,
        "jacobian",
        says=_describe_jacobian,
    ),
)


def text_plates_of(explanation: Explanation) -> list[Plate]:
    """Return the pictures an explanation has the numbers for."""
    own = {"drivers": ("left_out", f"relevance_{explanation.method}")}
    return [
        plate._replace(arrays=own.get(plate.name, plate.arrays))
        for plate in TEXT_PLATES
        if getattr(explanation, plate.needs) is not None
    ]
