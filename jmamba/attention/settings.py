"""The choices in which papers and released code of explanations differ."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class AttentionSettings:
    """Say how attention of layers becomes relevance of tokens.

    Attributes:
      rows: "full" for whole matrices; "query" for the query's row in place of every
        row, which is what the released code adds to the identity.
      skip: part of the layers to leave out, from the first on.
      row_normalise: whether rows of I + attention are divided by their sum.
      exact: whether the query's row is the definition's. The released code leaves the
        query's own decay and own weight out.
      channel_norm: whether a layer's row is scaled to [0, 1] over all its channels
        together, for raw attention and attribution.
      gradient_at: "block_out" for the residual stream behind a block, "block_in" for
        that in front of it.
      gradient_reduce: "mean" over the model's width; "max_positive" for the largest
        positive one, scaled to [0, 1] over tokens.
      gradient_on: whether a gradient weighs the "source" of attention (columns) or its
        "query" (rows); the paper's equation leaves it open, its code has sources.
      clamp: what has its negative part cut off: the "product" of attention and
        gradient, both "factors", or "none"; "abs" takes the product's magnitude.
      clamp_result: whether negative relevance is cut off.

    Raises:
      ValueError: a choice is unknown, or choices contradict each other.

    Examples:
      >>> AttentionSettings(clamp="abs", skip=0.5).rows
      'full'

    References:
      Ali, Zimerman & Wolf, ACL 2025, section 3.3, tables 5 and 6.
    """

    rows: Literal["full", "query"] = "full"
    skip: float = 0.0
    row_normalise: bool = False
    exact: bool = True
    channel_norm: bool = False
    gradient_at: Literal["block_out", "block_in"] = "block_out"
    gradient_reduce: Literal["mean", "max_positive"] = "mean"
    gradient_on: Literal["source", "query"] = "source"
    clamp: Literal["product", "factors", "none", "abs"] = "product"
    clamp_result: bool = False

    def __post_init__(self):
        """Check the choices."""
        for name, known in _KNOWN.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: give one of {', '.join(known)}."
                )
        if not 0 <= self.skip < 1:
            raise ValueError(f"skip={self.skip}: give a part of the layers in [0, 1).")
        only_rows = self.channel_norm or not self.exact
        if self.rows == "full" and only_rows:
            raise ValueError(
                "channel_norm=True and exact=False are of single rows: give "
                'rows="query", or leave them as they are.'
            )
        if self.rows == "query" and self.gradient_on == "query":
            raise ValueError(
                'With rows="query" all rows are one: give gradient_on="source", or '
                'rows="full".'
            )


_KNOWN = {
    "rows": ("full", "query"),
    "gradient_at": ("block_out", "block_in"),
    "gradient_reduce": ("mean", "max_positive"),
    "gradient_on": ("source", "query"),
    "clamp": ("product", "factors", "none", "abs"),
}

PRESETS = {
    "paper": AttentionSettings(),
    "official_2024": AttentionSettings(
        rows="query",
        skip=15 / 24,
        row_normalise=True,
        exact=False,
        channel_norm=True,
        gradient_reduce="max_positive",
        clamp="factors",
        clamp_result=True,
    ),
}
"""Name -> settings: the paper's equations, and what its released code computes."""


def choose_settings(settings: str | AttentionSettings) -> AttentionSettings:
    """Return settings, those of a preset by its name.

    Raises:
      ValueError: there is no such preset.

    Examples:
      >>> choose_settings("official_2024").row_normalise
      True
    """
    if isinstance(settings, AttentionSettings):
        return settings
    if settings not in PRESETS:
        raise ValueError(
            f"Unknown settings {settings!r}: give {' or '.join(PRESETS)}, or "
            "AttentionSettings(...)."
        )
    return PRESETS[settings]
