"""The bare recurrence, and what surrounds it, for implementations written in XLA.

    h[t] = exp(delta[t] A) keep[t] h[t-1] + delta[t] B[t] u[t],   s[t] = C[t] . h[t]

XLA fuses the elementwise work before it (casts, bias, softplus) and after it (D, z)
by itself, so such an implementation only writes the three maps of the recurrence;
`implementation` wraps them to the full contract.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jmamba_kernels.selective_scan.contract import (
    Implementation,
    ScanInputs,
    ScanResult,
    accumulation_dtype,
    keep_mask,
    some_inputs,
)


class BareOperands(NamedTuple):
    """Operands of the bare recurrence, all in the dtype of the state; d is minor."""

    u: Float[Array, "b l d"]
    delta: Float[Array, "b l d"]
    A: Float[Array, "n d"]
    B: Float[Array, "b l n g"]
    C: Float[Array, "b l n g"]
    initial_state: Float[Array, "b n d"]
    keep: Bool[Array, "b l"] | None = None


class RecurrenceMaps(NamedTuple):
    """The three maps an XLA implementation writes.

    scan(r, save_states) -> (s, last_state, chunk_states)
    tangent(r, t) -> (s, d_s, d_last_state); absent tangents are None
    cotangent(r, chunk_states, d_s, d_last_state) -> (s, Recurrence of cotangents)
    """

    scan: Callable
    tangent: Callable
    cotangent: Callable


SOURCES = {
    "u": ("u",),
    "delta": ("delta", "delta_bias"),
    "A": ("A",),
    "B": ("B",),
    "C": ("C",),
    "initial_state": ("initial_state",),
}
"""Which inputs each operand of the recurrence is made of."""


def spread(x: Float[Array, "... g"], channels: int) -> Float[Array, "... d"]:
    """Repeat each group's value over the group's channels."""
    shape = (*x.shape, channels // x.shape[-1])
    return jnp.broadcast_to(x[..., None], shape).reshape(*x.shape[:-1], channels)


def gather_groups(x: Float[Array, "... d"], groups: int) -> Float[Array, "... g p"]:
    """Split channels into groups of neighbours."""
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def _prepare(inputs: ScanInputs, *, delta_softplus: bool) -> BareOperands:
    """Cast, add the bias, apply softplus and lay the channels out last."""
    dtype = accumulation_dtype(inputs.u.dtype)
    u, delta, A, B, C = (x.astype(dtype) for x in inputs[:5])
    if inputs.delta_bias is not None:
        delta = delta + inputs.delta_bias.astype(dtype)[None, None]
    if delta_softplus:
        delta = jax.nn.softplus(delta)
    if inputs.initial_state is None:
        initial_state = jnp.zeros((u.shape[0], A.shape[1], A.shape[0]), dtype)
    else:
        initial_state = jnp.swapaxes(inputs.initial_state.astype(dtype), 1, 2)
    keep = None if inputs.segment_ids is None else keep_mask(inputs.segment_ids)
    B, C = jnp.swapaxes(B, 2, 3), jnp.swapaxes(C, 2, 3)  # b l g n -> b l n g
    return BareOperands(u, delta, A.T, B, C, initial_state, keep)


def _finish(s: Float[Array, "b l d"], inputs: ScanInputs) -> Float[Array, "b l d"]:
    """Return y = (s + D u) silu(z) in the dtype of u."""
    if inputs.D is not None:
        s = s + inputs.D.astype(s.dtype)[None, None] * inputs.u.astype(s.dtype)
    if inputs.z is not None:
        s = s * jax.nn.silu(inputs.z.astype(s.dtype))
    return s.astype(inputs.u.dtype)


def implementation(maps: RecurrenceMaps) -> Implementation:
    """Wrap the three maps of the bare recurrence to the full contract."""

    def scan(inputs, *, delta_softplus, save_states=False):
        r = _prepare(inputs, delta_softplus=delta_softplus)
        s, last_state, chunk_states = maps.scan(r, save_states)
        return ScanResult(
            _finish(s, inputs), jnp.swapaxes(last_state, 1, 2), chunk_states
        )

    def tangent(inputs, tangents, *, delta_softplus):
        directions = {k: v for k, v in tangents._asdict().items() if v is not None}
        primals = {k: getattr(inputs, k) for k in directions}

        def prepare_parts(parts):
            r = _prepare(inputs._replace(**parts), delta_softplus=delta_softplus)
            return r._replace(keep=None)

        def push_prepare(t):
            return jax.jvp(prepare_parts, (primals,), (t,))[1]

        t = jax.vmap(push_prepare)(directions)
        still = [k for k, v in SOURCES.items() if not set(v) & set(directions)]
        r = _prepare(inputs, delta_softplus=delta_softplus)
        if len(still) < len(SOURCES):
            s, d_s, d_last_state = maps.tangent(r, t._replace(**dict.fromkeys(still)))
        else:  # only D or z move, which stand outside the recurrence
            s, last_state, _ = maps.scan(r, False)
            count = next(iter(directions.values())).shape[0]
            d_s, d_last_state = (
                jnp.zeros((count, *x.shape), x.dtype) for x in (s, last_state)
            )

        def push_finish(d_s, t):
            def finish_parts(s, parts):
                return _finish(s, inputs._replace(**parts))

            return jax.jvp(finish_parts, (s, primals), (d_s, t))[1]

        d_y = jax.vmap(push_finish)(d_s, directions)
        return d_y, jnp.swapaxes(d_last_state, 2, 3)

    def cotangent(inputs, chunk_states, d_y, d_last_state, *, delta_softplus, wanted):
        primals = {k: getattr(inputs, k) for k in wanted}

        def prepare_parts(parts):
            r = _prepare(inputs._replace(**parts), delta_softplus=delta_softplus)
            return r._replace(keep=None)

        r = _prepare(inputs, delta_softplus=delta_softplus)
        # finish is linear in s, so its transpose needs no s
        _, pull_s = jax.vjp(lambda s: _finish(s, inputs), jnp.zeros_like(r.u))
        (d_s,) = jax.vmap(pull_s)(d_y)
        d_last_state = jnp.swapaxes(d_last_state, 2, 3).astype(r.u.dtype)
        s, d_r = maps.cotangent(r, chunk_states, d_s, d_last_state)
        _, pull_prepare = jax.vjp(prepare_parts, primals)
        _, pull_rest = jax.vjp(
            lambda parts: _finish(s, inputs._replace(**parts)), primals
        )
        (before,) = jax.vmap(pull_prepare)(d_r)
        (after,) = jax.vmap(pull_rest)(d_y)
        parts = jax.tree.map(jnp.add, before, after)
        return some_inputs(**parts)

    return Implementation(scan, tangent, cotangent)
