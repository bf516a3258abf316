"""Sizes and choices of language models of several kinds of layers."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from jmamba.layers.attention_sizes import AttentionSizes
from jmamba.layers.experts import ExpertSizes
from jmamba.layers.fields import DerivedWidth, Positive, Width, check_fields
from jmamba.layers.mixed import runs_of_kinds
from jmamba.layers.sizes import HeadSizes, derive
from jmamba.models.config import LanguageModelConfig

MAMBA, ATTENTION, DELTA = "mamba", "attention", "delta"
"""Kinds of layers: what mixes their tokens."""

EXPERTS = "_experts"
"""What kinds of layers end with whose feed-forward layer is one of experts."""


def mixer_kind(kind: str) -> str:
    """Return what mixes the tokens of a kind of layer, whatever its feed-forward layer.

    Examples:
      >>> mixer_kind("attention_experts")
      'attention'
    """
    return kind.removesuffix(EXPERTS)


def with_experts(kinds: Sequence[str]) -> tuple[str, ...]:
    """Return kinds of layers, and the same with experts.

    Examples:
      >>> with_experts(["mamba"])
      ('mamba', 'mamba_experts')
    """
    return tuple(kind + end for end in ("", EXPERTS) for kind in kinds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HybridFields(AttentionSizes, LanguageModelConfig):
    """Describe what a model of several kinds of layers has beside its recurrences.

    Its fields are those of `LanguageModelConfig` (vocab_size, d_model, num_layers and
    what is around the blocks), of `AttentionSizes`, and these:

    Attributes:
      layer_kinds: one of `known_kinds` for each layer, such as "mamba" or "attention";
        () for the first of them in all.
      d_feed_forward: width of the feed-forward layer of each block, or of that which
        all tokens pass beside experts; 0 for none.
      use_feed_forward_bias: whether its maps have biases.
      num_experts: of each layer whose kind ends with "_experts".
      experts_per_token: how many of them each token passes.
      d_expert: width of each; 0 for `d_feed_forward`.
      renormalise_experts: whether the weights of a token's experts add up to 1.
      share_experts: whether all tokens pass a feed-forward layer beside experts.
      d_shared: width of that; 0 for `d_feed_forward`.
      gate_shared: whether it is gated by a number of each token.
      embedding_multiplier: what embeddings are multiplied with.
      residual_multiplier: what is multiplied with all that blocks add.
      logits_divisor: what logits are divided by.

    Raises:
      ValueError: a field is of another type or not in its range, there is not one kind
        for each layer, or sizes do not divide each other.
    """

    known_kinds: ClassVar[tuple[str, ...]] = (MAMBA, ATTENTION)

    layer_kinds: Sequence[str] = ()
    d_feed_forward: DerivedWidth = 0
    use_feed_forward_bias: bool = False
    num_experts: DerivedWidth = 0
    experts_per_token: Width = 2
    d_expert: DerivedWidth = 0
    renormalise_experts: bool = False
    share_experts: bool = False
    d_shared: DerivedWidth = 0
    gate_shared: bool = False
    embedding_multiplier: Positive = 1.0
    residual_multiplier: Positive = 1.0
    logits_divisor: Positive = 1.0

    def __post_init__(self):
        """Check all fields and fill in the derived sizes."""
        self.check_vocabulary()
        check_fields(self)
        self.derive_attention()
        self.derive_kinds()

    def derive_kinds(self) -> None:
        """Fill in the kinds of layers if there are none, and raise unless they can be.

        Raises:
          ValueError: they cannot.
        """
        kinds = tuple(self.layer_kinds) or self.known_kinds[:1] * self.num_layers
        object.__setattr__(self, "layer_kinds", kinds)  # to have a hash
        kind = type(self).__name__
        unknown = sorted({*kinds} - {*self.known_kinds})
        if unknown:
            raise ValueError(
                f"{kind}: layer_kinds holds {', '.join(map(repr, unknown))}; there are "
                f"{', '.join(map(repr, self.known_kinds))}."
            )
        if len(kinds) != self.num_layers:
            raise ValueError(
                f"{kind}: layer_kinds names {len(kinds)} layers, but num_layers is "
                f"{self.num_layers}."
            )
        if not any(one.endswith(EXPERTS) for one in kinds):
            return
        derive(self, d_expert=self.d_feed_forward, d_shared=self.d_feed_forward)
        if not self.d_expert or not self.experts_per_token <= self.num_experts:
            raise ValueError(
                f"{kind}: layers of experts need num_experts, d_expert and an "
                f"experts_per_token up to their number, but these are "
                f"{self.num_experts}, {self.d_expert} and {self.experts_per_token}."
            )

    @property
    def expert_sizes(self) -> ExpertSizes:
        """Sizes of the layers of experts."""
        return ExpertSizes(
            self.num_experts,
            self.experts_per_token,
            self.d_expert,
            self.renormalise_experts,
        )

    @property
    def run_starts(self) -> dict[str, int]:
        """Return what each run's parameters are under -> the first of its layers."""
        return {run.name: run.layers.start for run in runs_of_kinds(self.layer_kinds)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HybridConfig(HybridFields, HeadSizes):
    """Describe a language model of Mamba-2 and softmax attention.

    Its fields are those of `HybridFields` and of `HeadSizes` (d_state, head_width,
    ...).

    Raises:
      ValueError: as `HybridFields` and `HeadSizes`.

    Examples:
      >>> config = HybridConfig(
      ...     vocab_size=256, d_model=64, num_layers=3, d_feed_forward=128,
      ...     layer_kinds=("mamba", "attention", "mamba"),
      ... )
      >>> config.num_heads, config.num_query_heads, config.run_starts
      (2, 8, {'run0': 0, 'run1': 1, 'run2': 2})
    """

    def __post_init__(self):
        """Check all fields and fill in the derived sizes."""
        super().__post_init__()
        self.derive_sizes()
