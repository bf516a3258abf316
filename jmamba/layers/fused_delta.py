"""The gated delta net whose maps are two, key head by key head."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jmamba.layers.delta_sizes import DeltaSizes
from jmamba.layers.freezing import Frozen, call_linear
from jmamba.layers.gated_delta import DeltaParts, GatedDeltaNet
from jmamba.layers.linear import make_linear


class FusedDeltaNet(GatedDeltaNet):
    """A gated delta net with two maps, as Qwen3-Next stores them.

    One makes for each key head its query, its key, and values and gates of its value
    heads; the other their beta and step sizes. All else is `GatedDeltaNet`'s.

    References:
      Qwen Team, "Qwen3-Next" (model card of Qwen3-Next-80B-A3B), for the layout.
    """

    letters: ClassVar[Mapping[str, str]] = {
        **{"conv1d.weight": "_k", "A_log": "h", "dt_bias": "h", "norm.scale": "_"},
        "out_proj.kernel": "dm",
    }

    def make_maps(self, sizes: DeltaSizes, **parts: Any) -> None:
        """Make the two maps of the input; see `GatedDeltaNet.make_maps`."""
        wide, heads = 2 * (sizes.d_key + sizes.d_inner), 2 * sizes.num_value_heads
        self.qkvz_proj = make_linear(sizes.d_model, wide, use_bias=False, **parts)
        self.ba_proj = make_linear(sizes.d_model, heads, use_bias=False, **parts)

    def project_in(self, x: Float[Array, "b l m"], frozen: Frozen) -> DeltaParts:
        """Return what the maps make of the normalised input, parts side by side."""
        sizes = self.sizes
        shares = sizes.num_value_heads // sizes.num_key_heads
        n, values = sizes.key_width, shares * sizes.value_width
        made = call_linear(self.qkvz_proj, x, "in_proj", frozen)
        q, k, v, z = _parts(made, sizes.num_key_heads, [n, 2 * n, 2 * n + values])
        made = call_linear(self.ba_proj, x, "in_proj", frozen)
        beta, dt = _parts(made, sizes.num_key_heads, [shares])
        return DeltaParts(jnp.concatenate([q, k, v], axis=-1), z, dt, beta)


def _parts(made, heads: int, ends: list[int]):
    """Return parts that lie head by head, each with its heads side by side."""
    each = made.reshape(*made.shape[:-1], heads, -1)
    parts = jnp.split(each, ends, axis=-1)
    return [part.reshape(*made.shape[:-1], -1) for part in parts]
