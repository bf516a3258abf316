"""What an op needs to say of itself to be a primitive with every derivative."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jmamba_kernels import CHUNK, ScanInputs, accumulation_dtype, choose, load
from jmamba_kernels.selective_scan.contract import Implementation
from jmamba_kernels.ssd.contract import SSD_CHUNK, SsdInputs
from jmamba_kernels.ssd.table import choose_ssd, load_ssd


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """A recurrence over tokens: its operands, their axes, and who computes it.

    Letters are those of its contract: b batch, l length, d channels or h heads of p,
    n states, g groups of B and C, m chunks.

    Attributes:
      name: of its primitive; those of its derivatives begin with it.
      inputs: the operands, a NamedTuple in which an absent one is None.
      axes: operand -> letters of its axes.
      results: result -> letters; `chunk_states` are there if they are asked for.
      narrow: results in the dtype of the first operand; the others have the state's.
      chunk: tokens between two saved states.
      parallel: the letter that devices may split instead of the length.
      left: called as left(inputs, **options), returns what all tokens leave of a state,
        in a shape that goes with it.
      outer: operands that the last state does not depend on.
      choose: called as choose(asked, target, dtype=), returns a name and the maps.
      load: returns the maps of an implementation by name.
    """

    name: str
    inputs: Any
    axes: Mapping[str, str]
    results: Mapping[str, str]
    narrow: tuple[str, ...]
    chunk: int
    parallel: str
    left: Callable[..., jax.Array]
    outer: tuple[str, ...]
    choose: Callable[..., tuple[str, Implementation]]
    load: Callable[..., Implementation]

    def open(self, values: Any, names: Any) -> Any:
        """Return operands of these names, the others being None."""
        parts = dict.fromkeys(self.axes) | dict(zip(names, values, strict=True))
        return self.inputs(**parts)


def _left_by_channels(inputs: ScanInputs, *, delta_softplus: bool) -> jax.Array:
    """Return exp(A sum_t delta[t]), (b, d, n)."""
    dtype = accumulation_dtype(inputs.u.dtype)
    delta = inputs.delta.astype(dtype)
    if inputs.delta_bias is not None:
        delta = delta + inputs.delta_bias.astype(dtype)[None, None]
    if delta_softplus:
        delta = jax.nn.softplus(delta)
    time = jnp.sum(delta, axis=1)[:, :, None]
    return jnp.exp(time * inputs.A.astype(dtype)[None])


def _left_by_heads(inputs: SsdInputs) -> jax.Array:
    """Return exp(A sum_t delta[t]), (b, h, 1, 1)."""
    dtype = accumulation_dtype(inputs.u.dtype)
    time = jnp.sum(inputs.delta.astype(dtype), axis=1)
    return jnp.exp(time * inputs.A.astype(dtype)[None])[..., None, None]


SELECTIVE_SCAN = Operation(
    name="selective_scan",
    inputs=ScanInputs,
    axes={
        "u": "bld",
        "delta": "bld",
        "A": "dn",
        "B": "blgn",
        "C": "blgn",
        "D": "d",
        "z": "bld",
        "delta_bias": "d",
        "initial_state": "bdn",
        "segment_ids": "bl",
    },
    results={"y": "bld", "last_state": "bdn", "chunk_states": "bmnd"},
    narrow=("y",),
    chunk=CHUNK,
    parallel="d",
    left=_left_by_channels,
    outer=("D", "z"),
    choose=choose,
    load=load,
)

SSD = Operation(
    name="ssd",
    inputs=SsdInputs,
    axes={
        "u": "blhp",
        "delta": "blh",
        "A": "h",
        "B": "blgn",
        "C": "blgn",
        "initial_state": "bhpn",
        "segment_ids": "bl",
    },
    results={"y": "blhp", "last_state": "bhpn", "chunk_states": "bmnhp"},
    narrow=(),
    chunk=SSD_CHUNK,
    parallel="h",
    left=_left_by_heads,
    outer=(),
    choose=choose_ssd,
    load=load_ssd,
)
