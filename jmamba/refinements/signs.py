"""Which signs gates have: what a configuration chooses."""

import dataclasses

from jmamba.layers.fields import Magnitude

MODES = ("pos", "neg", "mixed")
"""Signs of the non-zero eigenvalues of M: all positive, all negative, half of each."""

THRESHOLD = 0.7
"""Least magnitude of d in the official "pos" and "neg"; its "mixed" has none."""

SEMIDEFINITE = {"psd_general": 1, "nsd_general": -1}
"""Modes of `semidefinite_gate`, which need not be symmetric, and their sign."""

EPSILON = 1e-3
"""What keeps the symmetric part of their K away from zero."""

CHOICES = ("free", *MODES, *SEMIDEFINITE)
"""What a configuration may say; "free" for gates without constraint."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateSigns:
    """Choose the signs of S_C^T S_B; configurations of models hold the same fields.

    Attributes:
      definite: signs of the eigenvalues of S_C^T S_B, which decide whether tokens
        converge: "free" for an ordinary model, "pos", "neg" or "mixed" for the
        symmetric form of `definite_gates`, "psd_general" or "nsd_general" for the
        general one of `semidefinite_gate`.
      definite_threshold: least magnitude of the n eigenvalues' scales, or the general
        forms' epsilon; None for the official 0.7 (none for "mixed") or for 1e-3.
      equal_magnitudes: whether "mixed" has the threshold of "pos" and "neg".

    Examples:
      >>> GateSigns(definite="neg").threshold
      0.7

    References:
      Vo et al., arXiv 2410.03292, section 5.1.
    """

    definite: str = "free"
    definite_threshold: Magnitude | None = None
    equal_magnitudes: bool = False

    @property
    def gate_signs(self) -> "GateSigns":
        """These choices alone, of a configuration that holds more."""
        names = [field.name for field in dataclasses.fields(GateSigns)]
        return GateSigns(**{name: getattr(self, name) for name in names})

    @property
    def threshold(self) -> float:
        """The least |d|, or the epsilon of K.

        Without a number it is the official one: 0.7, and none for "mixed", unless
        `equal_magnitudes` gives that the same.

        Examples:
          >>> [GateSigns(definite=mode, equal_magnitudes=equal).threshold
          ...  for mode in ("neg", "mixed") for equal in (False, True)]
          [0.7, 0.7, 0.0, 0.7]
        """
        if self.definite_threshold is not None:
            return self.definite_threshold
        if self.definite in SEMIDEFINITE:
            return EPSILON
        has_none = self.definite == "mixed" and not self.equal_magnitudes
        return 0.0 if has_none else THRESHOLD


def check_definite(signs: GateSigns, states: int, channels: int) -> None:
    """Raise unless the signs of gates can be as they are chosen.

    Args:
      signs: the choices.
      states: of a channel.
      channels: of the mixer.

    Raises:
      ValueError: the mode is unknown, the threshold negative or not a number, there
        are more states than channels, or a setting does nothing in that mode.
    """
    mode, threshold = signs.definite, signs.definite_threshold
    if mode not in CHOICES:
        raise ValueError(f"definite={mode!r}: give one of {', '.join(CHOICES)}.")
    if mode == "free" and (threshold is not None or signs.equal_magnitudes):
        raise ValueError(
            "definite_threshold and equal_magnitudes do nothing to free gates: leave "
            f"them out, or give definite= one of {', '.join(CHOICES[1:])}."
        )
    if signs.equal_magnitudes and mode not in MODES:
        raise ValueError(
            f"equal_magnitudes makes {', '.join(MODES)} differ in sign alone and does "
            f"nothing to {mode!r}: leave it out."
        )
    if threshold is not None and not 0 <= threshold < float("inf"):
        raise ValueError(f"definite_threshold={threshold}: give 0 or more.")
    if mode in MODES and states > channels:
        raise ValueError(say_too_many(states, channels))


def say_too_many(states: int, channels: int) -> str:
    """Return why there cannot be more states than channels."""
    return (
        f"{states} states and {channels} channels: U has a unit diagonal, so give "
        "channels >= states."
    )
