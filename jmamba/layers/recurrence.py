"""Running recurrences in the form that all layers share, and watching them run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmamba.layers.places import Place, Watch
from jmamba.ops import (
    selective_scan,
    selective_state_update,
    ssd,
    ssd_state_update,
)
from jmamba.types import AnyRecurrence, BidirectionalRecurrence, Recurrence
from jmamba_kernels import accumulation_dtype

INSIDE = (
    Place(
        "decay",
        "blhn",
        "decays exp(delta A); n = 1 where a head has one",
        ("hook_A_bar",),
    ),
    Place("delta_B", "blhn", "delta times input gates", ("hook_B_bar",)),
    Place("h", "bldn", "states after each token", ("hook_h",)),
    Place("alpha", "", "hidden attention, whose pairs can be cut"),
    Place("attended", "bld", "what the recurrence puts out, without D u", ("hook_y",)),
    Place(
        "y", "bld", "what the recurrence puts out, D u included", ("hook_ssm_output",)
    ),
)
"""Places inside any recurrence."""

PARAMETERS = (
    Place("u", "bld", "values: what the recurrence reads", ("hook_ssm_input",)),
    Place("delta", "blh", "step sizes", ("hook_delta",)),
    Place("B", "blgn", "input gates (keys)", ("hook_B",), ("mixer.hook_ssm_B",)),
    Place("C", "blgn", "output gates (queries)", ("hook_C",), ("mixer.hook_ssm_C",)),
    Place("z", "bld", "the gate's argument", ("hook_skip",)),
)
"""Places of what any layer projects its input to."""


class RecurrenceOutput(NamedTuple):
    """What a recurrence puts out, and its state after the last token.

    The state of a head stands in p rows of n numbers, one row per channel.
    """

    y: Float[Array, "b l d"]
    last_state: Float[Array, "b d n"]


def run_recurrence(
    recurrence: Recurrence,
    *,
    state: Float[Array, "b d n"] | None = None,
    segment_ids: Int[Array, "b l"] | None = None,
    is_gated: bool = False,
) -> RecurrenceOutput:
    """Return y = (alpha + D) u, times silu(z) if that is asked for.

    Heads of several channels that decay by one number run as `ssd`, all others as
    `selective_scan`.

    Args:
      recurrence: what a layer projected its input to, of one direction.
      state: the state before the first token; None for zero.
      segment_ids: packed sequences, see `selective_scan`.
      is_gated: whether to multiply with silu(z).

    Examples:
      >>> ones = jnp.ones((1, 3, 2))  # a head of two channels, constant decay 1/2
      >>> gates = jnp.ones((1, 3, 1, 1))
      >>> log_half = jnp.log(jnp.full((1, 1), 0.5))
      >>> y, _ = run_recurrence(Recurrence(ones, ones[..., :1], log_half, gates, gates))
      >>> [round(float(v), 3) for v in y[0, :, 0]]
      [1.0, 1.5, 1.75]
    """
    heads = recurrence.delta.shape[-1]
    if recurrence.A.shape[-1] == 1 and heads < recurrence.u.shape[-1]:
        y, last_state = _run_heads(recurrence, state, segment_ids)
        if is_gated and recurrence.z is not None:
            y = y * jax.nn.silu(recurrence.z)
        return RecurrenceOutput(y, last_state)
    u, delta, A, B, C, D, z = by_channel(recurrence)
    z = z if is_gated else None
    if u.shape[1] == 1 and state is not None and segment_ids is None:
        y, last_state = selective_state_update(
            state,
            u[:, 0],
            delta[:, 0],
            A,
            B[:, 0],
            C[:, 0],
            D,
            None if z is None else z[:, 0],
        )
        return RecurrenceOutput(y[:, None], last_state)
    return RecurrenceOutput(
        *selective_scan(
            u, delta, A, B, C, D, z, initial_state=state, segment_ids=segment_ids
        )
    )


def _run_heads(recurrence: Recurrence, state, segment_ids) -> RecurrenceOutput:
    """Run heads of p channels each, whose states decay by one number."""
    u, delta, A, B, C, D, _ = recurrence
    heads = delta.shape[-1]

    def by_head(x, axis):
        shape = (*x.shape[:axis], heads, x.shape[axis] // heads, *x.shape[axis + 1 :])
        return x.reshape(shape)

    u, state = by_head(u, 2), None if state is None else by_head(state, 1)
    D = None if D is None else by_head(D, 0)
    if u.shape[1] == 1 and state is not None and segment_ids is None:
        y, last_state = ssd_state_update(
            state, u[:, 0], delta[:, 0], A[:, 0], B[:, 0], C[:, 0], D
        )
    else:
        y, last_state = ssd(
            u, delta, A[:, 0], B, C, D, initial_state=state, segment_ids=segment_ids
        )
    (batch, channels), n = (u.shape[0], recurrence.u.shape[2]), B.shape[-1]
    last_state = last_state.reshape(batch, channels, n)
    return RecurrenceOutput(y.reshape(recurrence.u.shape), last_state)


def by_channel(recurrence: Recurrence) -> Recurrence:
    """Return the recurrence with a head for every channel: delta (b l d), A (d n)."""
    u, delta, A, B = recurrence.u, recurrence.delta, recurrence.A, recurrence.B
    d, n = u.shape[-1], B.shape[-1]
    width = d // delta.shape[-1]
    if width > 1:
        delta, A = jnp.repeat(delta, width, axis=-1), jnp.repeat(A, width, axis=-2)
    if A.shape[-1] != n:
        A = jnp.broadcast_to(A, (*A.shape[:-1], n))
    return recurrence._replace(delta=delta, A=A)


def directions_of(recurrence: AnyRecurrence) -> tuple[Recurrence, ...]:
    """Return the one direction of a causal layer, or the two of a bidirectional one."""
    if isinstance(recurrence, BidirectionalRecurrence):
        return recurrence.forward, recurrence.backward
    return (recurrence,)


def watch_parameters(recurrence: Recurrence, at: Watch) -> Recurrence:
    """Return a recurrence after what is edited of its parameters, each by itself."""
    fields = recurrence._asdict()
    own = [place.name for place in PARAMETERS if fields[place.name] is not None]
    return recurrence._replace(**{name: at(name, fields[name]) for name in own})


def watch_recurrence(
    recur: Callable[..., RecurrenceOutput],
    recurrence: Recurrence,
    at: Watch,
    *,
    state: Float[Array, "b d n"] | None = None,
    segment_ids: Int[Array, "b l"] | None = None,
) -> RecurrenceOutput:
    """Return what a recurrence puts out after what is edited inside of it.

    Args:
      recur: runs it where nobody asks what is inside of a token's step.
      recurrence: what is run.
      at: who edits and reads.
      state: before the first token.
      segment_ids: packed sequences.
    """
    context: dict[str, Any] = {"state": state, "segment_ids": segment_ids}
    is_stepped = at.asks("decay", "delta_B", "h")
    is_cut = recurrence.D is not None and (is_stepped or at.asks("attended"))
    bare = recurrence._replace(D=None) if is_cut else recurrence
    if is_stepped:
        y, last = _step_by_step(bare, at, **context)
    else:
        y, last = recur(bare, **context)
    if at.asks("alpha"):
        y = y + at.increment("alpha", recurrence).astype(y.dtype)
    if is_cut or recurrence.D is None:
        y = at("attended", y)
    if is_cut:
        assert recurrence.D is not None
        y = y + recurrence.D[None, None].astype(y.dtype) * recurrence.u
    return RecurrenceOutput(at("y", y), last)


def _step_by_step(recurrence: Recurrence, at: Watch, state, segment_ids):
    """Run a recurrence one token at a time, in float32 or better.

    h[t] = a[t] h[t-1] + (delta B)[t] u[t]^T;  y[t] = h[t]^T C[t]
    """
    u, delta, A, B, C, _, _ = recurrence
    (batch, length, d), heads, n = u.shape, delta.shape[-1], B.shape[-1]
    wide = accumulation_dtype(u.dtype)

    def decays(delta):  # *b h -> *b h r
        return jnp.exp(delta[..., None] * A.reshape(*(1,) * (delta.ndim - 1), *A.shape))

    def gates(delta, B):  # *b h, *b g n -> *b h n
        B = jnp.repeat(B.astype(wide), heads // B.shape[-2], axis=-2)
        return delta[..., None].astype(wide) * B

    def widen(x):  # b h r -> b d n
        x = jnp.repeat(x.astype(wide), d // heads, axis=1)
        return jnp.broadcast_to(x, (batch, d, n))

    # made of all tokens at once only where somebody asks: n times as large as delta
    a = at("decay", decays(delta)) if at.asks("decay") else None
    w = at("delta_B", gates(delta, B)) if at.asks("delta_B") else None

    def step(h, row):
        token, u, delta, B, C, goes_on, a, w = row
        a = widen(decays(delta) if a is None else a) * goes_on[:, None, None]
        w = widen(gates(delta, B) if w is None else w)
        h = a * h + w * u.astype(wide)[:, :, None]
        h = at.at_token("h", h, token, length)
        C = jnp.repeat(C.astype(wide), d // C.shape[1], axis=1)
        y = jnp.einsum("bdn,bdn->bd", C, h, precision="highest")
        return h, (y, h if at.shows("h") else None)

    goes_on = jnp.ones((batch, length), wide)
    if segment_ids is not None:
        begins = segment_ids[:, 1:] != segment_ids[:, :-1]
        goes_on = goes_on.at[:, 1:].set(jnp.where(begins, 0, 1).astype(wide))
    start = jnp.zeros((batch, d, n), wide) if state is None else state.astype(wide)
    rows = (jnp.arange(length), *_by_token((u, delta, B, C, goes_on, a, w)))
    last, (y, states) = jax.lax.scan(step, start, rows)
    if states is not None:
        at.note("h", jnp.moveaxis(states, 0, 1))  # l b d n -> b l d n
    return RecurrenceOutput(jnp.moveaxis(y, 0, 1).astype(u.dtype), last)  # l b d


def _by_token(parts):
    return jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), parts)  # b l ... -> l b ...
