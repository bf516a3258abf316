"""What an explanation of one text holds."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jmamba.report.labels import Piece, token_label


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The likeliest next tokens, best first.

    Attributes:
      ids: token ids.
      probabilities: their probabilities after the text.
      labels: their readable forms.
    """

    ids: Int[np.ndarray, "t"]
    probabilities: Float[np.ndarray, "t"]
    labels: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What a model made of one text; see `jmamba.report.explain`.

    All layers are counted from 0. `l` is the number of tokens.

    Attributes:
      model: name of the model.
      text: the text.
      ids: its tokens.
      pieces: the tokens as stretches of text.
      labels: one readable label per token.
      layers: the layers chosen for large pictures.
      predictions: the likeliest next tokens.
      driver: gradient x input of the best next token's logit, one value per token:
        positive where the token's embedding raises the logit.
      last_attention: mean |alpha| over channels, from the last token to each token, in
        every layer.
      attention: the same from every token, or None where it was not asked for.
      norms: Euclidean norm of each token's residual stream; row 0 is the embedding,
        row k + 1 is after layer k.
      jacobian: Frobenius norms of d x_last[i] / d x_first[j] through the whole stack of
        layers, or None where they were not asked for.
      settings: what was asked for.
      environment: versions, device and implementation.
      timings: seconds per stage.
    """

    model: str
    text: str
    ids: Int[np.ndarray, "l"]
    pieces: tuple[Piece, ...]
    labels: tuple[str, ...]
    layers: tuple[int, ...]
    predictions: Predictions
    driver: Float[np.ndarray, "l"]
    last_attention: Float[np.ndarray, "s l"]
    attention: Float[np.ndarray, "s l l"] | None
    norms: Float[np.ndarray, "s+1 l"]
    jacobian: Float[np.ndarray, "l l"] | None
    settings: dict[str, Any]
    environment: dict[str, Any]
    timings: dict[str, float]

    @property
    def starts(self) -> list[str]:
        """The visible text of each piece at its first token, nothing at the others."""
        texts = [""] * len(self.ids)
        for text, start, _ in self.pieces:
            texts[start] = token_label(text, self.labels[start])
        return texts

    @property
    def layer_shares(self) -> Float[np.ndarray, "s l"]:
        """Each layer's attention from the last token, as shares that sum to 1."""
        return shares(self.last_attention)

    @property
    def mean_share(self) -> Float[np.ndarray, "l"]:
        """`layer_shares`, averaged over layers."""
        return self.layer_shares.mean(axis=0)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays to store, by name."""
        arrays = {
            "token_ids": self.ids,
            "chosen_layers": np.asarray(self.layers, np.int32),
            "prediction_ids": self.predictions.ids,
            "prediction_probabilities": self.predictions.probabilities,
            "driver": self.driver,
            "last_attention": self.last_attention,
            "residual_norms": self.norms,
        }
        if self.attention is not None:
            arrays["attention"] = self.attention
        if self.jacobian is not None:
            arrays["jacobian_norms"] = self.jacobian
        return arrays


def shares(rows: Float[np.ndarray, "*s l"]) -> Float[np.ndarray, "*s l"]:
    """Divide non-negative rows by their sums; a row of zeros stays zero.

    Examples:
      >>> shares(np.array([[1.0, 3.0], [0.0, 0.0]])).tolist()
      [[0.25, 0.75], [0.0, 0.0]]
    """
    total = rows.sum(axis=-1, keepdims=True)
    return rows / np.where(total > 0, total, 1)
