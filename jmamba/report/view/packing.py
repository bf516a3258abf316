"""Maps between tokens in few bytes: codes of eight bits with scales, deflated."""

import base64
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8, UInt16

from jmamba.report.view.maps import PairMap

STEPS = (255, 127, 63, 31, 15, 7)
"""How many steps codes may have, the finest first."""

VIEW_BYTES = 1_600_000
"""What the maps of one view may take of a page."""

WHOLE = 65535
"""The scale that stands for 1."""


class Packed(NamedTuple):
    """Maps as a page stores them.

    Attributes:
      maps: of each map its names, its bytes, and what reads them.
      error: the largest difference between a share and what its code stands for.
      left_out: map -> what it would take; the page has no room for it.
    """

    maps: list[dict[str, Any]]
    error: float
    left_out: dict[str, str]


def pack_maps(maps: Sequence[PairMap], limit: int = VIEW_BYTES) -> Packed:
    """Return maps as a page stores them, in order, each as finely as there is room.

    Where a map does not fit with the fewest steps either, only what the last token
    reads is stored of the first map, and nothing of the others.

    Args:
      maps: what to pack, the most important first.
      limit: bytes that all of them may take.
    """
    packed, error, left_out = [], 0.0, {}
    for one in maps:
        entry, off = _fit(one, limit)
        if entry is None:
            smallest = len(_deflate(*encode_rows(one, STEPS[-1])))
            left_out[one.title] = _what_it_takes(smallest, limit)
            entry, off = (None, 0.0) if packed else _fit(one.of_last(), limit)
        if entry is not None:
            packed.append(entry)
            limit, error = limit - len(entry["data"]), max(error, off)
    return Packed(packed, error, left_out)


def encode_rows(
    one: PairMap, steps: int
) -> tuple[UInt16[np.ndarray, "s q"], UInt8[np.ndarray, "s n"]]:
    """Return the scale of each row, and a code for each share of `one.rows`.

        share = scale / 65535 (code / steps)^2

    The square makes small shares finer: no share is off by more than 1 / steps of the
    largest in its row, and one of x by little more than sqrt(x) / steps.

    Examples:
      >>> one = PairMap("attention", np.array([[[0.25, 0.75, 0.0]]], np.float32))
      >>> restore(one, *encode_rows(one, 255), 255).round(2).tolist()
      [[0.25, 0.75, 0.0]]
    """
    largest = one.shares.max(axis=-1, initial=0)
    scales = np.ceil(WHOLE * np.clip(largest, 0, 1)).astype("<u2")
    scaled = one.rows.clip(0) / _spread(one, np.maximum(scales, 1))
    codes = np.rint(steps * np.sqrt(scaled)).clip(0, steps)
    return scales, codes.astype(np.uint8)


def restore(one: PairMap, scales, codes, steps: int) -> Float[np.ndarray, "s n"]:
    """Return what the codes of `one.rows` stand for; see `encode_rows`."""
    return _spread(one, scales) * (codes / np.float32(steps)) ** 2


def _spread(one, scales):
    """Return the scale of every entry of the rows, as a share."""
    of_rows = (scales / np.float32(WHOLE)).astype(np.float32)
    if not one.is_whole:
        return of_rows
    return np.repeat(of_rows, np.arange(1, scales.shape[1] + 1), axis=1)


def _fit(one, limit):
    """Return a map with as many steps as fit, and its error; None if it does not."""
    for steps in STEPS:
        coded = encode_rows(one, steps)
        data = _deflate(*coded)
        if len(data) <= limit:
            break
    else:
        return None, 0.0
    entry = {
        "name": one.name,
        "of": one.of,
        "about": one.about,
        "layers": list(one.layers),
        "whole": one.is_whole,
        "steps": steps,
        "data": data,
    }
    return entry, float(np.abs(restore(one, *coded, steps) - one.rows).max(initial=0))


def _deflate(scales, codes) -> str:
    data = zlib.compress(scales.tobytes() + codes.tobytes())
    return base64.b64encode(data).decode()


def _what_it_takes(size: int, limit: int) -> str:
    return (
        f"it would take {size / 1e6:.2f} MB, and of the page there are "
        f"{max(0, limit) / 1e6:.2f} MB left; arrays.npz has it"
    )
