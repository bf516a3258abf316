"""Requests for matrices that would not fit into memory."""

import math

MEMORY_LIMIT = 4 * 2**30
"""Bytes that one call may return before it asks for a reduction instead."""


def check_memory(name: str, counts: dict[str, int], itemsize: int, limit: int) -> None:
    """Raise if a result would take too many bytes, and say what to ask for instead.

    Args:
      name: of the function that was called.
      counts: what the result has how many of.
      itemsize: bytes of a number.
      limit: bytes that the result may take.

    Raises:
      ValueError: it would take more.
    """
    size = math.prod(counts.values()) * itemsize
    if size <= limit:
        return
    product = " x ".join(f"{count} {what}" for what, count in counts.items())
    advice = "Ask for some rows=[...]"
    if "channels" in counts:
        advice += " or channels=[...], reduce over channels with reduced_attention(...)"
    raise ValueError(
        f"{name} would return {size / 2**30:.1f} GiB ({product}), over the limit of "
        f"{limit / 2**30:.1f} GiB. {advice}, or raise memory_limit."
    )
