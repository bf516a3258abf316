"""What an explanation of one text holds."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jmamba.figures.labels import Piece, piece_labels
from jmamba.figures.words import join_words
from jmamba.report.display import Displayed
from jmamba.report.predictions import Predictions


@dataclasses.dataclass(frozen=True, repr=False)
class Explanation(Displayed):
    """What a model made of one text; see `jmamba.report.text.measure`.

    All layers are counted from 0. `l` is the number of tokens.

    Attributes:
      model: name of the model.
      text: the text.
      ids: its tokens.
      pieces: the tokens as stretches of text.
      labels: one readable label per token.
      layers: the layers chosen for large pictures.
      predictions: the likeliest next tokens, or classes.
      question: those that are explained, why the first and, if there is one, why not
        the second.
      left_out: bits of the log-probability of what is explained that are lost when a
        piece is left out of the text, for the last k of the p pieces: positive where
        the piece speaks for it. All of them unless the text is long. Of two it
        is the difference of both.
      relevance: method -> relevance of each token for the logit of what is explained,
        or for the difference of two; the method that was asked for comes first.
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
      groups: channels or heads -> mean |alpha| over them from every token, in every
        layer; none where they were not asked for. So with the next two.
      folded: mean |gate (alpha + D) slope conv| over channels, likewise.
      rollout: the product of I + mean alpha over layers; row i is token i's.
    """

    model: str
    text: str
    ids: Int[np.ndarray, "l"]
    pieces: tuple[Piece, ...]
    labels: tuple[str, ...]
    layers: tuple[int, ...]
    predictions: Predictions
    question: Predictions
    left_out: Float[np.ndarray, "k"]
    relevance: dict[str, Float[np.ndarray, "l"]]
    last_attention: Float[np.ndarray, "s l"]
    attention: Float[np.ndarray, "s l l"] | None
    norms: Float[np.ndarray, "s+1 l"]
    jacobian: Float[np.ndarray, "l l"] | None
    settings: dict[str, Any]
    environment: dict[str, Any]
    timings: dict[str, float]
    groups: dict[str, Float[np.ndarray, "s l l"]] = dataclasses.field(
        default_factory=dict
    )
    folded: Float[np.ndarray, "s l l"] | None = None
    rollout: Float[np.ndarray, "l l"] | None = None

    def __repr__(self) -> str:
        """Return the prediction and what drove it, without the arrays."""
        best, drivers = self.predictions, self.drivers
        labels = self.piece_labels
        strongest = ", ".join(
            f"{labels[i]} ({drivers[i]:+.2f} bits)" for i in self.strongest(3)
        )
        return (
            f"Explanation of {self.text!r} by {self.model}: {best.kind.one} "
            f"{best.labels[0]} ({100 * best.probabilities[0]:.1f} %); what drove "
            f"{self.explained}: {strongest}"
        )

    @property
    def explained(self) -> str:
        """What is explained, in words."""
        return " rather than ".join(self.question.labels)

    @property
    def method(self) -> str:
        """The method that was asked for."""
        return next(iter(self.relevance))

    @property
    def piece_starts(self) -> Int[np.ndarray, "p"]:
        """The first token of each piece."""
        return np.array([piece.start for piece in self.pieces], np.int32)

    @property
    def drivers(self) -> Float[np.ndarray, "p"]:
        """`left_out` of all pieces, NaN for those that were too far back."""
        unknown = np.full(len(self.pieces) - len(self.left_out), np.nan, np.float32)
        return np.concatenate([unknown, self.left_out])

    @property
    def piece_labels(self) -> list[str]:
        """One readable label per piece."""
        return piece_labels(self.pieces, self.labels)

    @property
    def words(self) -> list[Piece]:
        """The tokens as words."""
        return join_words(self.pieces)

    def by_word(self, values: Float[np.ndarray, "*s l"]) -> Float[np.ndarray, "*s w"]:
        """Add up the values of the tokens of each word: relevance, or attention.

        Sums of what leaving out each piece costs are not what leaving out a word costs.
        """
        starts = np.array([word.start for word in self.words], np.int32)
        return np.add.reduceat(values, starts, axis=-1)

    def by_piece(self, values: Float[np.ndarray, "*s l"]) -> Float[np.ndarray, "*s p"]:
        """Add up the values of the tokens of each piece."""
        return np.add.reduceat(values, self.piece_starts, axis=-1)

    def strongest(self, count: int) -> list[int]:
        """Return the pieces that drove the prediction most, strongest first."""
        order = np.argsort(-np.abs(self.drivers), kind="stable")  # NaN comes last
        return order[: min(count, len(self.left_out))].tolist()

    @property
    def listed(self) -> list[int]:
        """The pieces that tables list, as many as predictions were asked for."""
        return self.strongest(self.settings["top"])

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
            "left_out": self.left_out,
            "target_ids": self.question.ids,
            "target_probabilities": self.question.probabilities,
            **{f"relevance_{name}": r for name, r in self.relevance.items()},
            "piece_starts": self.piece_starts,
            "last_attention": self.last_attention,
            "residual_norms": self.norms,
        }
        if self.attention is not None:
            arrays["attention"] = self.attention
        if self.jacobian is not None:
            arrays["jacobian_norms"] = self.jacobian
        if self.groups:
            arrays["attention_groups"] = np.stack(list(self.groups.values()))
        if self.folded is not None:
            arrays["attention_folded"] = self.folded
        if self.rollout is not None:
            arrays["rollout"] = self.rollout
        return arrays


def shares(rows: Float[np.ndarray, "*s l"]) -> Float[np.ndarray, "*s l"]:
    """Divide non-negative rows by their sums; a row of zeros stays zero.

    Examples:
      >>> shares(np.array([[1.0, 3.0], [0.0, 0.0]])).tolist()
      [[0.25, 0.75], [0.0, 0.0]]
    """
    total = rows.sum(axis=-1, keepdims=True)
    return rows / np.where(total > 0, total, 1)
