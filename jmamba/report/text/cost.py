"""What an explanation costs, and when that is too much to start unasked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax

from jmamba.report.size import Size

MOMENT = {"cpu": 3e11}
"""Operations that take a moment on a platform; `ACCELERATED` on the others."""
ACCELERATED = 3e13
PATIENCE = 10
"""How many moments a user who asked for nothing special is made to wait."""
MOST_PROBES = 16


def jacobian_operations(length: int, size: Size) -> float:
    """Return the operations of one direction per token through all layers."""
    return size.operations * length**2


def choose_left_out(length: int, size: Size) -> int:
    """Return how many tokens back to leave out one by one, 2 or more.

    Leaving out each of k tokens means k runs over the last k tokens.
    """
    moment = MOMENT.get(jax.default_backend(), ACCELERATED)
    budget = 3 * moment / jacobian_operations(1, size)
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


@contextmanager
def all_complaints() -> Iterator[Callable]:
    """Say at once all that several checks complain about.

    Yields:
      A function ask(check, *args) that returns what the check returns, None if it
      complains.

    Raises:
      ValueError: a check has raised one; the message is that of all.
    """
    complaints = []

    def ask(check, *args):
        try:
            return check(*args)
        except ValueError as error:
            complaints.append(str(error))

    yield ask
    if complaints:
        raise ValueError(" ".join(complaints))


def check_length(length: int, max_tokens: int, size: Size) -> None:
    """Raise if a text is too long for attention between all pairs of its tokens.

    Raises:
      ValueError: it has more than `max_tokens`; the message says what it would cost.
    """
    if length <= max_tokens:
        return
    pairs = size.layers * length**2
    raise ValueError(
        f"The text has {length} tokens, more than {max_tokens}. Hidden attention "
        f"between all pairs of them would take {4 * pairs / 2**20:.0f} MiB and "
        f"{size.states * length**2:.1e} exponentials. Shorten the text, keep only what "
        "the last token attends to with --no-matrices (matrices=False), or accept the "
        f"cost with --max-tokens {length} (max_tokens={length})."
    )
