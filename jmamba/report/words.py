"""What pictures show, in words and numbers, for those who do not see them."""

from collections.abc import Sequence

import numpy as np

from jmamba.figures.labels import isolate
from jmamba.report.predictions import Predictions


def quote(label: str) -> str:
    """Return a label in quotation marks, whatever its direction.

    Examples:
      >>> quote("␣a") == "“\\u2068␣a\\u2069”"
      True
    """
    return f"“{isolate(label)}”"


def list_largest(
    labels: Sequence[str], values: np.ndarray, unit: str, *, count: int = 3
) -> str:
    """Name the largest of some values, by magnitude; NaNs are left out.

    Examples:
      >>> list_largest(["a", "b"], np.array([1.0, -3.14]), " bits", count=1)
      '“\\u2068b\\u2069” -3.14 bits'
    """
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(-np.abs(values[known]), kind="stable")][:count]
    return ", ".join(f"{quote(labels[int(i)])} {values[i]:.3g}{unit}" for i in order)


def describe_predictions(best: Predictions) -> str:
    """Name the likeliest outcomes."""
    return list_largest(best.labels, 100 * best.probabilities, " %")


def describe_norms(norms: np.ndarray) -> str:
    """Say how long tokens are before the first layer and after the last."""
    first, last = (float(np.median(norms[k])) for k in (0, -1))
    return (
        f"the median norm goes from {first:.3g} at the embedding to {last:.3g} after "
        f"layer {len(norms) - 2}; the largest is {norms.max():.3g}"
    )


def describe_layers(values: np.ndarray, unit: str = "") -> str:
    """Say where values of layers (s, ...) are smallest and largest."""
    low, high = (np.unravel_index(k, values.shape) for k in
                 (np.argmin(values), np.argmax(values)))  # fmt: skip
    return (
        f"from {values[low]:.3g}{unit} in layer {low[0]} to {values[high]:.3g}{unit} "
        f"in layer {high[0]}"
    )


def describe_pairs(
    matrices: np.ndarray, layers: Sequence[int], names: Sequence[str]
) -> str:
    """Name the strongest link between two different tokens in each of some layers.

    Args:
      matrices: (s, l, l), row i the token that reads.
      layers: which to describe.
      names: of the tokens.
    """
    lines = []
    for layer in layers:
        apart = matrices[layer] * (1 - np.eye(matrices.shape[-1]))
        i, j = map(int, np.unravel_index(np.argmax(apart), apart.shape))
        link = f"{quote(names[i])} reads {quote(names[j])} most, {apart[i, j]:.3g}"
        lines.append(f"in layer {layer} {link}")
    return "; ".join(lines)
