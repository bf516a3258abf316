"""The three maps of the scan on a GPU, around the kernels of one backend.

Padding, the combination of segments and the sums of partial sums, for any backend.
Every sum has a fixed order: no atomics.
"""

from functools import partial

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jmamba_kernels.selective_scan.contract import (
    Implementation,
    ScanInputs,
    ScanResult,
    some_inputs,
)
from jmamba_kernels.selective_scan.gpu.blocks import (
    Blocks,
    Operands,
    cut,
    cut_channels,
    cut_states,
    pad_channels,
    pad_operands,
    pad_states,
    pad_tangents,
)
from jmamba_kernels.selective_scan.gpu.launches import (
    Backend,
    Pulled,
    run_cotangent,
    run_scan,
    run_segment_ends,
    run_segment_starts,
    run_tangent,
)
from jmamba_kernels.selective_scan.tilings import GpuTiling


def combine_segments(
    decay: Float[Array, "b s n d"],
    local: Float[Array, "... b s n d"],
    start: Float[Array, "... b n d"],
    *,
    reverse: bool = False,
) -> Float[Array, "... b s n d"]:
    """Return the state that each segment starts from.

        h[s+1] = decay[s] h[s] + local[s],    h[0] = start

    Args:
      decay: what a segment does to the state it is given: exp(A sum delta), or zero
        where a reset falls into it.
      local: the end of each segment that starts from zero.
      start: the state before the first segment (behind the last one, if reversed).
      reverse: whether segments follow each other from the last to the first.
    """
    axis = local.ndim - 3
    lead = (1,) * (local.ndim - decay.ndim)
    decay = jnp.broadcast_to(decay.reshape(*lead, *decay.shape), local.shape)

    def combine(left, right):
        return left[0] * right[0], left[1] * right[0] + right[1]

    parts = (decay, local)
    total, ends = lax.associative_scan(combine, parts, axis=axis, reverse=reverse)
    start = jnp.expand_dims(start, axis)
    ends = total * start + ends
    if reverse:
        return jnp.concatenate(
            [lax.slice_in_dim(ends, 1, None, axis=axis), start], axis
        )
    return jnp.concatenate([start, lax.slice_in_dim(ends, 0, -1, axis=axis)], axis)


def _by_state(state, k: Blocks):
    """Lay a state out as the kernels do, (..., d, n) -> (..., n, d), padded."""
    return pad_states(jnp.swapaxes(state.astype(jnp.float32), -1, -2), k)


def _initial_state(inputs: ScanInputs, k: Blocks) -> Float[Array, "b n d"]:
    if inputs.initial_state is None:
        return jnp.zeros((k.batch, k.n, k.padded), jnp.float32)
    return _by_state(inputs.initial_state, k)


def _starts(backend: Backend, inputs, x: Operands, k: Blocks, delta_softplus):
    """Return the state before every segment, and what segments do to a state."""
    start = _initial_state(inputs, k)
    if k.segments == 1:
        return start[:, None], None
    local, decay = run_segment_ends(backend, x, k, delta_softplus=delta_softplus)
    return combine_segments(decay, local, start), decay


def _refuse_float64(name: str, *parts: ScanInputs) -> None:
    wide = {field for part in parts for field, x in part._asdict().items()
            if x is not None and x.dtype == jnp.float64}  # fmt: skip
    if wide:
        raise NotImplementedError(
            f"{name} computes in float32, but {', '.join(sorted(wide))} came in "
            f"float64. Cast to float32, or give implementation='xla', which keeps "
            f"float64."
        )


def _scan(backend: Backend, tiling, inputs, *, delta_softplus, save_states=False):
    _refuse_float64(backend.name, inputs)
    k = cut(inputs, tiling, backend.scan_shape)
    x = pad_operands(inputs, k)
    starts, _ = _starts(backend, inputs, x, k, delta_softplus)
    y, ends, saved = run_scan(
        backend, x, starts, k, save_states, delta_softplus=delta_softplus
    )
    n = inputs.A.shape[1]
    last_state = jnp.swapaxes(cut_states(ends[:, -1], k, n), 1, 2)
    saved = None if saved is None else cut_states(saved, k, n)
    return ScanResult(cut_channels(y, k), last_state, saved)


def _tangent(backend: Backend, tiling, inputs, tangents, *, delta_softplus):
    _refuse_float64(backend.name, inputs)
    k = cut(inputs, tiling, backend.tangent_shape)
    x, t = pad_operands(inputs, k), pad_tangents(tangents, k)
    count = next(v.shape[0] for v in tangents if v is not None)
    d_start = jnp.zeros((count, k.batch, k.n, k.padded), jnp.float32)
    if tangents.initial_state is not None:
        d_start = _by_state(tangents.initial_state, k)
    starts, decay = _starts(backend, inputs, x, k, delta_softplus)
    run = partial(run_tangent, backend, x, t, starts, k, delta_softplus=delta_softplus)
    if decay is None:  # one segment
        d_starts = d_start[:, :, None]
    else:  # the tangent of a state decays as the state does
        zeros = jnp.zeros((count, *starts.shape), jnp.float32)
        d_starts = combine_segments(decay, run(d_starts=zeros)[1], d_start)
    d_y, d_ends = run(d_starts=d_starts)
    d_last_state = cut_states(d_ends[:, :, -1], k, inputs.A.shape[1])
    return cut_channels(d_y, k), jnp.swapaxes(d_last_state, 2, 3)


def _cotangent(
    backend: Backend, tiling, inputs, chunk_states, d_y, d_last_state,
    *, delta_softplus, wanted,
):  # fmt: skip
    _refuse_float64(backend.name, inputs)
    k = cut(inputs, tiling, backend.cotangent_shape)
    x = pad_operands(inputs, k)
    d_y = pad_channels(d_y, k)
    g_end = _by_state(d_last_state, k)
    if k.segments == 1:
        g_ends = g_end[:, :, None]
    else:
        local, decay = run_segment_starts(
            backend, x, d_y, k, delta_softplus=delta_softplus
        )
        g_ends = combine_segments(decay, local, g_end, reverse=True)
    pulled = run_cotangent(
        backend, x, pad_states(chunk_states, k), d_y, g_ends, k, wanted,
        delta_softplus=delta_softplus,
    )  # fmt: skip
    return some_inputs(**{
        name: _reduce(name, pulled, k, inputs).astype(getattr(inputs, name).dtype)
        for name in wanted
    })  # fmt: skip


def _reduce(name: str, pulled: Pulled, k: Blocks, inputs: ScanInputs) -> Array:
    """Sum the partial sums of one cotangent and drop its padding."""
    n = inputs.A.shape[1]
    if name == "initial_state":
        return jnp.swapaxes(cut_states(pulled.g[:, :, 0], k, n), 2, 3)
    x = getattr(pulled, name)
    if name in ("u", "delta", "z"):
        return cut_channels(x, k)
    if name == "A":
        return jnp.swapaxes(cut_states(jnp.sum(x, axis=(1, 2)), k, n), 1, 2)
    if name in ("D", "delta_bias"):
        return cut_channels(jnp.sum(x, axis=(1, 2)), k)
    by_group = x.reshape(k.groups, k.blocks_per_group, *x.shape[1:])
    return jnp.moveaxis(jnp.sum(by_group, axis=1), 0, 3)[
        ..., :n
    ]  # g k b l n -> k b l g n


def gpu_implementation(
    backend: Backend, tiling: GpuTiling | None = None
) -> Implementation:
    """Return the implementation that runs a backend's kernels.

    Args:
      backend: who runs them.
      tiling: how all its maps are cut; None for `choose_tiling`'s choice.
    """
    return Implementation(
        scan=partial(_scan, backend, tiling),
        tangent=partial(_tangent, backend, tiling),
        cotangent=partial(_cotangent, backend, tiling),
    )
