"""The pictures of an image's report: what each shows, in plain words."""

from jmamba.attention import METHODS
from jmamba.report.figures.shared import draw_predictions
from jmamba.report.image import figures, words
from jmamba.report.image.explanation import ImageExplanation
from jmamba.report.plate import ALPHA, Plate
from jmamba.report.words import describe_predictions

IMAGE_PLATES = (
    Plate(
        "predictions",
        "Likeliest classes",
        "The longer the bar, the surer the model is of the class.",
        "p = softmax(logits)",
        ("prediction_ids", "prediction_probabilities"),
        lambda found: draw_predictions(found.predictions, "class", "classes"),
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
        says=words.describe_heat,
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
        says=words.describe_methods,
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
        says=words.describe_class_attention,
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
        says=words.describe_evolution,
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
        says=words.describe_maps,
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
        says=words.describe_depth,
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
