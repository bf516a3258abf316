"""The pictures of an image's report: what each shows, in plain words."""

import numpy as np

from jmamba.attention import METHODS
from jmamba.report.image import figures
from jmamba.report.image.explanation import ImageExplanation
from jmamba.report.plate import ALPHA, Plate
from jmamba.report.shared_figures import draw_predictions
from jmamba.report.words import (
    describe_layers,
    describe_pairs,
    describe_predictions,
    quote,
)


def _describe_heat(explanation: ImageExplanation) -> str:
    """Say where the strongest patch is."""
    grid = explanation.relevance[explanation.method]
    rows, columns = grid.shape
    return (
        f"{_strongest(grid)}; values of {rows} x {columns} patches, from "
        f"{grid.min():.3g} to {grid.max():.3g}"
    )


def _describe_methods(explanation: ImageExplanation) -> str:
    """Say where the strongest patch is by each method."""
    found = explanation.relevance.items()
    parts = [f"{name.replace('_', ' ')}: {_strongest(grid)}" for name, grid in found]
    return "; ".join(parts)


def _describe_class_attention(explanation: ImageExplanation) -> str:
    """Say which patch is read most in the chosen layers."""
    maps = explanation.class_attention
    parts = [f"layer {k}: {_strongest(maps[k])}" for k in explanation.layers]
    return "; ".join(parts)


def _describe_evolution(explanation: ImageExplanation) -> str:
    """Say how sure the classifier is at first and at last."""
    first, last = 100 * explanation.reading[0, 0], 100 * explanation.reading[-1, 0]
    best = quote(explanation.predictions.labels[0])
    return f"{best} goes from {first:.3g} % at the embedding to {last:.3g} % at the end"


def _describe_maps(explanation: ImageExplanation) -> str:
    """Name the strongest links of the chosen layers."""
    assert explanation.attention is not None
    names = [f"token {i}" for i in range(explanation.attention.shape[-1])]
    return describe_pairs(explanation.attention, explanation.layers, names)


def _describe_depth(explanation: ImageExplanation) -> str:
    """Say how strong the strongest link of each layer is."""
    assert explanation.attention is not None
    return "the largest " + describe_layers(explanation.attention.max(axis=(1, 2)))


def _strongest(grid: np.ndarray) -> str:
    row, column = np.unravel_index(np.argmax(np.abs(grid)), grid.shape)
    return (
        f"strongest in row {row + 1}, column {column + 1}, with {grid[row, column]:.3g}"
    )


IMAGE_PLATES = (
    Plate(
        "predictions",
        "Likeliest classes",
        "The longer the bar, the surer the model is of the class.",
        "p = softmax(logits)",
        ("prediction_ids", "prediction_probabilities"),
        lambda found: draw_predictions(found.predictions),
        "predictions",
        says=lambda found: describe_predictions(found.predictions),
    ),
    Plate(
        "heat_map",
        "What spoke for the class",
        "Bright patches mattered most to the class, by the method that was asked for. "
        "Where a method tells for from against, orange spoke for the class and blue "
        "against it. The model read what is on the left, cut into the patches on the "
        "right; between their centres the map in the middle is interpolated.",
        "relevance of each token to the class's logit, the class token left out",
        (),  # those of the method that was asked for
        figures.draw_heat_map,
        "relevance",
        says=_describe_heat,
    ),
    Plate(
        "methods",
        "The same by every method",
        "Each on its own scale; the dot marks the one drawn above. Where methods that "
        "reason differently light up the same patches, trust them more. Raw attention, "
        "rollout, token norms and ALTI do not ask for a class: they show what was "
        "read, whatever for, and the blue of the first two is where the sum over "
        "channels is negative.",
        "raw: mean α;  rollout: Π (I + E α);  attribution: Π (I + (E ∂logit · E α)⁺);  "
        "norms and ALTI: from the vectors that tokens add to others;  the rest: input "
        "× a gradient",
        tuple(f"patches_{name}" for name in METHODS),
        figures.methods,
        "others",
        says=_describe_methods,
    ),
    Plate(
        "class_attention",
        "What the class token reads in each layer",
        "The classifier looks at one token only. This is how much each patch enters "
        "what a layer's recurrence puts out there, from both directions. Without a "
        "class token it is the mean over all tokens.",
        f"{ALPHA}, i the class token; |α| averaged over channels",
        ("class_attention",),
        figures.class_attention,
        "class_attention",
        says=_describe_class_attention,
    ),
    Plate(
        "layer_evolution",
        "When the model makes up its mind",
        "The classifier is asked after every layer, as if there were no more. Layers "
        "in front were not trained to be read like this: take it for a hint.",
        "softmax(head(norm(x after layer k)))",
        ("layer_probabilities",),
        figures.layer_evolution,
        "reading",
        says=_describe_evolution,
    ),
    Plate(
        "attention_maps",
        "Hidden attention between all patches",
        "Each row is a token that reads, each column a token that is read; bright "
        "means more. Patches are counted row by row from the top left. Two recurrences "
        "read the image, one from each end, so that both triangles are filled.",
        f"{ALPHA}, both directions added; |α| averaged over channels",
        ("attention", "chosen_layers"),
        figures.draw_maps_of_layers,
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
        figures.draw_depth,
        "attention",
        says=_describe_depth,
    ),
)


def image_plates_of(explanation: ImageExplanation) -> list[Plate]:
    """Return the pictures an explanation has the numbers for."""
    method = explanation.method
    own = {"heat_map": (method, f"patches_{method}", "seen")}
    return [
        plate._replace(arrays=own.get(plate.name, plate.arrays))
        for plate in IMAGE_PLATES
        if getattr(explanation, plate.needs) is not None
    ]
