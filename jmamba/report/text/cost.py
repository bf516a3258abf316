"""What an explanation costs, and when that is too much to start unasked."""

from typing import NamedTuple

import jax

from jmamba.report.size import Size

MOMENT = {"cpu": 3e11}
"""Operations that take a moment on a platform; `ACCELERATED` on the others."""
ACCELERATED = 3e13
PATIENCE = 10
"""How many moments a user who asked for nothing special is made to wait."""
MOST_PROBES = 16
EXPONENTIAL = 10
"""Operations that an exponential takes as long as."""
LAYER_BYTES = 256 * 2**20
"""What the matrices of all channels of one layer may take."""


def jacobian_operations(length: int, size: Size) -> float:
    """Return the operations of one direction per token through all layers."""
    return size.operations * length**2


def choose_left_out(length: int, size: Size) -> int:
    """Return how many tokens back to leave out one by one, 2 or more.

    Leaving out each of k tokens means k runs over the last k tokens.
    """
    moment = MOMENT.get(jax.default_backend(), ACCELERATED)
    budget = moment / jacobian_operations(1, size)
    return max(2, min(length, int(budget**0.5)))


def choose_probes(length: int, size: Size, probes: int | None) -> int:
    """Return how many random directions per token to use for Jacobian norms.

    Args:
      length: tokens of the text.
      size: of the model's layers.
      probes: what the user asked for; None for as many as take a moment.

    Raises:
      ValueError: fewer than one is asked for, or none is and even one takes long.
    """
    if probes is not None:
        if probes < 1:
            raise ValueError(f"probes must be at least 1, but is {probes}.")
        return probes
    one = jacobian_operations(length, size)
    moment = MOMENT.get(jax.default_backend(), ACCELERATED)
    if one > PATIENCE * moment:
        raise ValueError(
            f"The Jacobian of a text of {length} tokens would take {one:.1e} "
            f"operations with a single random direction per token, {one / moment:.0f} "
            f"times what takes a moment on a {jax.default_backend()}. Shorten the "
            "text, leave the Jacobian out with --no-jacobian (jacobian=False), or "
            "accept the cost with --probes 1 (probes=1)."
        )
    return max(1, min(MOST_PROBES, int(moment / one)))


class Plan(NamedTuple):
    """What of an explanation is computed, and why the rest is not.

    Attributes:
      matrices: whether attention between all pairs of tokens is.
      groups: whether that of groups of channels, folded and rolled out is.
      probes: random directions per token for the Jacobian; None for no Jacobian.
      skipped: part -> why it was left out unasked.
    """

    matrices: bool
    groups: bool
    probes: int | None
    skipped: dict[str, str]


def plan_costs(
    length: int,
    size: Size,
    *,
    matrices: bool | None,
    groups: bool | None,
    jacobian: bool | None,
    probes: int | None,
    max_tokens: int,
) -> Plan:
    """Return what to compute: what was asked for, and else what does not take long.

    Args:
      length: tokens of the text.
      size: of the model's layers.
      matrices, groups, jacobian: whether they are asked for; None for what does not
        take long.
      probes: random directions per token that are asked for; None for as many as take
        a moment.
      max_tokens: longest text for matrices.

    Raises:
      ValueError: something was asked for that takes too long; all reasons at once.
    """
    complaints, skipped = [], {}

    def ask(part, asked, check, *args):
        if asked is False:
            return None
        try:
            return check(*args)
        except ValueError as error:
            if asked:
                complaints.append(str(error))
            else:
                skipped[part] = str(error)

    fits = ask("matrices", matrices, check_length, length, max_tokens, size)
    also = groups if fits or groups else False
    grouped = ask("groups", also, check_groups, length, bool(fits), size)
    wanted = jacobian if probes is None or jacobian is False else True
    chosen = ask("jacobian", wanted, choose_probes, length, size, probes)
    if complaints:
        raise ValueError(" ".join(complaints))
    return Plan(bool(fits), bool(grouped), chosen, skipped)


def check_length(length: int, max_tokens: int, size: Size) -> bool:
    """Return True unless a text is too long for attention between all its tokens.

    Raises:
      ValueError: it has more than `max_tokens`; the message says what it would cost.
    """
    if length <= max_tokens:
        return True
    pairs = size.layers * length**2
    raise ValueError(
        f"The text has {length} tokens, more than {max_tokens}. Hidden attention "
        f"between all pairs of them would take {4 * pairs / 2**20:.0f} MiB and "
        f"{size.states * length**2:.1e} exponentials. Shorten the text, keep only what "
        "the last token attends to with --no-matrices (matrices=False), or accept the "
        f"cost with --max-tokens {length} (max_tokens={length})."
    )


def check_groups(length: int, matrices: bool, size: Size) -> bool:
    """Return True unless matrices of all channels of a layer take much.

    Raises:
      ValueError: they do, or matrices between all tokens are not computed at all; the
        message says what it would cost.
    """
    if not matrices:
        raise ValueError(
            "Attention of groups of channels is between all pairs of tokens, which are "
            "left out here: ask for both with --matrices --groups (matrices=True, "
            "groups=True), or for none with --no-groups (groups=False)."
        )
    layer = 4 * size.channels * length**2
    moment = MOMENT.get(jax.default_backend(), ACCELERATED)
    times = 3.0 * size.states * length**2 * EXPONENTIAL / moment
    if layer <= LAYER_BYTES and times <= PATIENCE:
        return True
    raise ValueError(
        f"Attention of groups of channels, folded and rolled out would take "
        f"{layer / 2**20:.0f} MiB for the matrices of one layer of a text of {length} "
        f"tokens, and {times:.0f} times what takes a moment on a "
        f"{jax.default_backend()}. Shorten the text, or leave it out with --no-groups "
        "(groups=False)."
    )
