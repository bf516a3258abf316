"""The choices in which papers and released code of explanations differ."""

import dataclasses
from typing import Literal

from jmamba.attention.matrices.factors import FOLDS


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
      fold: what else of the mixer is part of its attention, some of "D", "silu",
        "conv", "gate"; see `hidden_attention`.
      channels: how attention of all channels becomes one: "mean", "max", "min" or
        "product".
      discard: part of each layer's weights to set to 0, the lowest of each sample's
        reduced map; weights ahead of a text's queries do not count.
      channel_norm: whether a layer's row is scaled to [0, 1] over all its channels
        together, for raw attention and attribution.
      row_norm: whether a layer's row is scaled to [0, 1] behind the gradient's weights,
        for attribution.
      gradient_at: "block_out" for the residual stream behind a block, "block_in" for
        that in front of it, "gated_y" for the mixer's gated output in front of its
        projection.
      gradient_reduce: "mean" over the width of what it is the gradient of;
        "max_positive" for the largest positive one, scaled to [0, 1] over tokens.
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
      Ali, Zimerman & Wolf, ACL 2025, section 3.3, tables 5, 6 and 9.
      Zimerman et al., arXiv 2405.16504, section 3, for `fold`.
    """

    rows: Literal["full", "query"] = "full"
    skip: float = 0.0
    row_normalise: bool = False
    exact: bool = True
    fold: tuple[str, ...] = ()
    channels: Literal["mean", "max", "min", "product"] = "mean"
    discard: float = 0.0
    channel_norm: bool = False
    row_norm: bool = False
    gradient_at: Literal["block_out", "block_in", "gated_y"] = "block_out"
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
        for name in ("skip", "discard"):
            part = getattr(self, name)
            if not 0 <= part < 1:
                of = "layers" if name == "skip" else "weights"
                raise ValueError(f"{name}={part}: give a part of the {of} in [0, 1).")
        if isinstance(self.fold, str) or set(self.fold) - set(FOLDS):
            raise ValueError(
                f"fold={self.fold!r}: give some of {', '.join(FOLDS)}, as in "
                'fold=("conv", "silu"), or () for the recurrence alone.'
            )
        object.__setattr__(self, "fold", tuple(self.fold))
        for wrong, message in _contradictions(self):
            if wrong:
                raise ValueError(message)


def _contradictions(settings: AttentionSettings):
    """Yield whether choices contradict each other, and what to give instead."""
    rows, exact = settings.rows, settings.exact
    yield (
        rows == "full" and (settings.channel_norm or settings.row_norm or not exact),
        "channel_norm=True, row_norm=True and exact=False are of single rows: give "
        'rows="query", or leave them as they are.',
    )
    yield (
        rows == "query" and settings.gradient_on == "query",
        'With rows="query" all rows are one: give gradient_on="source", or '
        'rows="full".',
    )
    yield (
        bool(settings.fold) and not exact,
        "exact=False is the row that was released for the recurrence alone: give "
        "fold=(), or exact=True.",
    )
    yield (
        settings.channels == "product" and settings.clamp == "factors",
        'A product of channels has no sign of its own: with channels="product" give '
        'clamp="product", "none" or "abs".',
    )


_KNOWN = {
    "rows": ("full", "query"),
    "channels": ("mean", "max", "min", "product"),
    "gradient_at": ("block_out", "block_in", "gated_y"),
    "gradient_reduce": ("mean", "max_positive"),
    "gradient_on": ("source", "query"),
    "clamp": ("product", "factors", "none", "abs"),
}

_RELEASED = AttentionSettings(
    rows="query",
    skip=15 / 24,
    row_normalise=True,
    gradient_reduce="max_positive",
    clamp="factors",
    clamp_result=True,
)

PRESETS = {
    "paper": AttentionSettings(),
    "official_2024": dataclasses.replace(_RELEASED, exact=False, channel_norm=True),
    "unified": AttentionSettings(fold=FOLDS),
    "official_2025": dataclasses.replace(
        _RELEASED, fold=("silu", "conv", "gate"), row_norm=True
    ),
}
"""Name -> settings: the paper's equations and what its released code computes; unified
attention in the same equations, and what its released code computes."""


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
            f"Unknown settings {settings!r}: give {', '.join(PRESETS)} or "
            "AttentionSettings(...)."
        )
    return PRESETS[settings]
