"""The definition of the selective scan: sequential, obvious, float32 or float64.

Its tangent and cotangent are JAX's own derivatives of the definition, so it is also
what the derivatives of every other implementation are tested against, and what their
second derivatives fall back to.
"""

import jax
import jax.numpy as jnp

from jmamba_kernels.selective_scan.contract import (
    CHUNK,
    Implementation,
    ScanInputs,
    ScanResult,
    accumulation_dtype,
    keep_mask,
    some_inputs,
)


def _scan(
    inputs: ScanInputs, *, delta_softplus: bool, save_states: bool = False
) -> ScanResult:
    """Run the selective recurrence step by step.

        h[t] = exp(delta[t] A) keep[t] h[t-1] + delta[t] B[t] u[t]
        y[t] = (C[t] . h[t] + D u[t]) silu(z[t])

    References:
      Gu & Dao, "Mamba", arXiv 2312.00752, section 3.2, algorithm 2.
    """
    u, delta, A, B, C = (
        x.astype(accumulation_dtype(inputs.u.dtype)) for x in inputs[:5]
    )
    if inputs.delta_bias is not None:
        delta = delta + inputs.delta_bias.astype(u.dtype)[None, None]
    if delta_softplus:
        delta = jax.nn.softplus(delta)
    per_group = u.shape[2] // B.shape[2]
    B, C = (jnp.repeat(x, per_group, axis=2) for x in (B, C))  # b l d n
    if inputs.segment_ids is None:
        keep = jnp.ones_like(u[:, :, 0])
    else:
        keep = keep_mask(inputs.segment_ids).astype(u.dtype)
    if inputs.initial_state is None:
        h = jnp.zeros_like(u[:, 0, :, None] * A[None])
    else:
        h = inputs.initial_state.astype(u.dtype)

    def step(h, x):
        u, delta, B, C, keep = x
        A_bar = jnp.exp(delta[:, :, None] * A[None]) * keep[:, None, None]
        h_next = A_bar * h + (delta * u)[:, :, None] * B
        return h_next, (jnp.sum(C * h_next, axis=-1), h)

    by_time = [jnp.moveaxis(x, 1, 0) for x in (u, delta, B, C, keep)]
    last_state, (y, states) = jax.lax.scan(step, h, by_time)
    y = jnp.moveaxis(y, 0, 1)
    if inputs.D is not None:
        y = y + inputs.D.astype(u.dtype)[None, None] * u
    if inputs.z is not None:
        y = y * jax.nn.silu(inputs.z.astype(u.dtype))
    chunk_states = None
    if save_states:
        chunk_states = jnp.transpose(
            states[::CHUNK], (1, 0, 3, 2)
        )  # m b d n -> b m n d
    return ScanResult(y.astype(inputs.u.dtype), last_state, chunk_states)


def _tangent(inputs: ScanInputs, tangents: ScanInputs, *, delta_softplus: bool):
    """Return the directional derivatives of (y, last_state) along k tangents."""
    names = [name for name, t in tangents._asdict().items() if t is not None]

    def run(parts):
        result = _scan(inputs._replace(**parts), delta_softplus=delta_softplus)
        return result.y, result.last_state

    primals = {name: getattr(inputs, name) for name in names}
    directions = {name: getattr(tangents, name) for name in names}
    return jax.vmap(lambda t: jax.jvp(run, (primals,), (t,))[1])(directions)


def _cotangent(
    inputs: ScanInputs,
    chunk_states,
    d_y,
    d_last_state,
    *,
    delta_softplus: bool,
    wanted: tuple[str, ...],
) -> ScanInputs:
    """Return the cotangents of the wanted inputs for k cotangents of the outputs."""
    del chunk_states

    def run(parts):
        result = _scan(inputs._replace(**parts), delta_softplus=delta_softplus)
        return result.y, result.last_state

    _, vjp = jax.vjp(run, {name: getattr(inputs, name) for name in wanted})
    (parts,) = jax.vmap(vjp)((d_y, d_last_state))
    return some_inputs(**parts)


reference = Implementation(_scan, _tangent, _cotangent)
