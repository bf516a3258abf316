"""The pictures of a lens: what each shows, in plain words."""

from jmamba.report.lens import figures
from jmamba.report.lens.measure import LensReport
from jmamba.report.plate import Plate
from jmamba.report.words import quote

READ = "softmax(W_out norm(x behind layer, token i))"
"""What a page says of the logit lens."""


def _describe_lens(report: LensReport) -> str:
    """Say what the layers find likeliest after the text."""
    parts = []
    for row, layer in enumerate(report.layers):
        label = quote(report.top_labels[row][-1][0])
        share = 100 * report.reading.probabilities[row, -1, 0]
        parts.append(f"layer {layer} {label} {share:.3g} %")
    return "after the whole text: " + ", ".join(parts)


def _describe_divergence(report: LensReport) -> str:
    """Say how far the layers are from the model, on average over tokens."""
    means = report.reading.divergence.mean(axis=1)
    pairs = zip(report.layers, means, strict=True)
    return "mean over tokens: " + ", ".join(
        f"layer {layer} {mean:.3g} bits" for layer, mean in pairs
    )


def _describe_last(report: LensReport) -> str:
    """Say how the probability of the likeliest grows."""
    best = quote(report.predictions.labels[0])
    first, last = 100 * report.last[0, 0], 100 * report.last[-1, 0]
    return (
        f"{best} has {first:.3g} % behind layer {report.layers[0]} and {last:.3g} % "
        f"behind layer {report.layers[-1]}"
    )


LENS_PLATES = (
    Plate(
        "lens",
        "What each layer would say",
        "If the model ended behind a layer, it would expect this next token, or "
        "say this class. Each column is what follows a token of the text; darker is "
        "surer. The bottom row is the model itself, if all layers were read.",
        READ,
        ("lens_ids", "lens_probabilities"),
        figures.draw_lens,
        says=_describe_lens,
    ),
    Plate(
        "lens_divergence",
        "How far a layer is from the model",
        "Bright: ending here would lose many bits about what the whole model expects. "
        "Where a column turns dark, the prediction is made.",
        "KL(model ‖ layer) = Σ p log₂(p / q), p of the model and q of the layer",
        ("lens_divergence",),
        figures.draw_divergence,
        says=_describe_divergence,
    ),
    Plate(
        "last_token",
        "The prediction after the text, layer by layer",
        "How likely each layer finds what the whole model finds likeliest.",
        READ,
        ("last_probabilities", "prediction_ids"),
        figures.draw_last_predictions,
        says=_describe_last,
    ),
)
