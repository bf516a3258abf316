"""The definition of Mamba-2's recurrence: sequential, obvious, float32 or float64.

Its tangent and cotangent are JAX's own derivatives of the definition, so it is also
what the derivatives of every other implementation are tested against, and what their
second derivatives fall back to.
"""

import jax
import jax.numpy as jnp

from jmamba_kernels.selective_scan.contract import (
    Implementation,
    accumulation_dtype,
    keep_mask,
)
from jmamba_kernels.ssd.contract import (
    SSD_CHUNK,
    SsdInputs,
    SsdResult,
    some_ssd_inputs,
)


def _scan(inputs: SsdInputs, *, save_states: bool = False) -> SsdResult:
    """Run the recurrence step by step.

        h[t] = exp(delta[t] A) keep[t] h[t-1] + delta[t] u[t] B[t]^T
        y[t] = h[t] C[t]

    References:
      Dao & Gu, "Transformers are SSMs", arXiv 2405.21060, section 3 and equation 1.
    """
    dtype = accumulation_dtype(inputs.u.dtype)
    u, delta, A, B, C = (x.astype(dtype) for x in inputs[:5])
    batch, _, heads, width = u.shape
    B, C = (jnp.repeat(x, heads // x.shape[2], axis=2) for x in (B, C))  # b l h n
    if inputs.segment_ids is None:
        keep = jnp.ones_like(delta[:, :, 0])
    else:
        keep = keep_mask(inputs.segment_ids).astype(dtype)
    if inputs.initial_state is None:
        h = jnp.zeros((batch, heads, width, B.shape[3]), dtype)
    else:
        h = inputs.initial_state.astype(dtype)

    def step(h, x):
        u, delta, B, C, keep = x
        decay = jnp.exp(delta * A[None]) * keep[:, None]
        inflow = (delta[..., None] * u)[..., None] * B[:, :, None]
        h_next = decay[..., None, None] * h + inflow
        return h_next, (jnp.sum(h_next * C[:, :, None], axis=-1), h)

    by_time = [jnp.moveaxis(x, 1, 0) for x in (u, delta, B, C, keep)]
    last_state, (y, states) = jax.lax.scan(step, h, by_time)
    chunk_states = None
    if save_states:
        # m b h p n -> b m n h p
        chunk_states = jnp.transpose(states[::SSD_CHUNK], (1, 0, 4, 2, 3))
    return SsdResult(jnp.moveaxis(y, 0, 1), last_state, chunk_states)


def _tangent(inputs: SsdInputs, tangents: SsdInputs):
    """Return the directional derivatives of (y, last_state) along k tangents."""
    directions = {k: t for k, t in tangents._asdict().items() if t is not None}
    primals = {name: getattr(inputs, name) for name in directions}

    def run(parts):
        return tuple(_scan(inputs._replace(**parts))[:2])

    return jax.vmap(lambda t: jax.jvp(run, (primals,), (t,))[1])(directions)


def _cotangent(
    inputs: SsdInputs, chunk_states, d_y, d_last_state, *, wanted: tuple[str, ...]
) -> SsdInputs:
    """Return the cotangents of the wanted inputs for k cotangents of the outputs."""
    del chunk_states

    def run(parts):
        return tuple(_scan(inputs._replace(**parts))[:2])

    _, vjp = jax.vjp(run, {name: getattr(inputs, name) for name in wanted})
    (parts,) = jax.vmap(vjp)((d_y, d_last_state))
    return some_ssd_inputs(**parts)


reference = Implementation(_scan, _tangent, _cotangent)
