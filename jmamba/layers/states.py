"""The states of a recurrence, token by token: where they are read and edited."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmamba.layers.places import Place, Watch
from jmamba.layers.recurrence import RecurrenceOutput
from jmamba.types import Recurrence
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


def watch_parameters(recurrence: Recurrence, at: Watch) -> Recurrence:
    """Return a recurrence after what is edited of its parameters, each by itself."""
    fields = recurrence._asdict()
    own = [place.name for place in PARAMETERS if fields[place.name] is not None]
    return recurrence._replace(**{name: at(name, fields[name]) for name in own})


def watch_recurrence(
    out: RecurrenceOutput,
    recurrence: Recurrence,
    at: Watch,
    *,
    state: Float[Array, "b d n"] | None = None,
    segment_ids: Int[Array, "b l"] | None = None,
) -> RecurrenceOutput:
    """Return what a recurrence puts out after what is edited inside of it.

    Edits change y by what they add to it, so that one that changes nothing leaves every
    bit of it.

    Args:
      out: what the recurrence puts out when nobody edits.
      recurrence: the same.
      at: who edits and reads.
      state: before the first token.
      segment_ids: packed sequences.
    """
    y, last = out

    def add(y, change):
        return y + change.astype(y.dtype)

    if at.asks("decay", "delta_B", "h"):
        change = _walk_states(recurrence, at, state, segment_ids)
        y, last = add(y, change.y), add(last, change.last_state)
    if at.asks("alpha"):
        y = add(y, at.increment("alpha", recurrence))
    if at.asks("attended"):
        u, D = recurrence.u, recurrence.D
        skipped = jnp.zeros_like(y) if D is None else D[None, None].astype(y.dtype) * u
        attended = y - skipped
        y = y + (at("attended", attended) - attended)
    return RecurrenceOutput(at("y", y), last)


def _walk_states(recurrence, at: Watch, state, segment_ids) -> RecurrenceOutput:
    """Return what edits of decays, of delta B and of states add to y and the state.

        h[t] = a[t] h[t-1] + delta[t] B[t] u[t]
        g[t] = a'[t] g[t-1] + (a'[t] - a[t]) h[t-1] + (delta B'[t] - delta B[t]) u[t]

    with a' and B' edited; h + g is the edited state, and C g is what is added to y.
    """
    u, delta, A, B, C, _, _ = recurrence
    (batch, length, d), heads, n = u.shape, delta.shape[-1], B.shape[-1]
    wide = accumulation_dtype(u.dtype)
    if state is None:
        state = jnp.zeros((batch, d, n), wide)
    goes_on = jnp.ones((batch, length), wide)
    if segment_ids is not None:
        begins = segment_ids[:, 1:] != segment_ids[:, :-1]
        goes_on = goes_on.at[:, 1:].set(jnp.where(begins, 0, 1).astype(wide))

    def decays(delta):  # *b h -> *b h r
        return jnp.exp(delta[..., None] * A.reshape(*(1,) * (delta.ndim - 1), *A.shape))

    def gates(delta, B):  # *b h, *b g n -> *b h n
        B = jnp.repeat(B.astype(wide), heads // B.shape[-2], axis=-2)
        return delta[..., None].astype(wide) * B

    def change(name, make):
        if not at.asks(name):
            return None
        value = make()
        return at(name, value) - value

    new_a = change("decay", lambda: decays(delta))
    new_w = change("delta_B", lambda: gates(delta, B))

    def widen(x):  # b h r -> b d n
        x = jnp.repeat(x.astype(wide), d // heads, axis=1)
        return jnp.broadcast_to(x, (batch, d, n))

    def step(carry, row):
        h, g = carry
        token, u, delta, B, C, goes_on, new_a, new_w = row
        a = widen(decays(delta)) * goes_on[:, None, None]
        u = u.astype(wide)[:, :, None]
        edited = a if new_a is None else a + widen(new_a) * goes_on[:, None, None]
        g = edited * g
        if new_a is not None:
            g = g + (edited - a) * h
        if new_w is not None:
            g = g + widen(new_w) * u
        h = a * h + widen(gates(delta, B)) * u
        whole = h + g
        passes = at.at_token("h", whole, token, length)
        g = g + (passes - whole)
        C = jnp.repeat(C.astype(wide), d // C.shape[1], axis=1)
        shown = passes if at.prefix + "h" in at.show else None
        return (h, g), (jnp.einsum("bdn,bdn->bd", C, g, precision="highest"), shown)

    rows = (jnp.arange(length), *_by_token((u, delta, B, C, goes_on, new_a, new_w)))
    start = (state.astype(wide), jnp.zeros((batch, d, n), wide))
    (_, last), (y, states) = jax.lax.scan(step, start, rows)
    if states is not None:
        at.note("h", jnp.moveaxis(states, 0, 1))  # l b d n -> b l d n
    return RecurrenceOutput(jnp.moveaxis(y, 0, 1), last)  # l b d -> b l d


def _by_token(parts):
    return jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), parts)  # b l ... -> l b ...
