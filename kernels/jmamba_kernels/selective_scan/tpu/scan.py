"""The forward kernel for TPU."""

from functools import partial

from jax import lax
from jax.experimental import pallas as pl

from jmamba_kernels.selective_scan.contract import CHUNK
from jmamba_kernels.selective_scan.tpu.blocks import (
    Track,
    add_up,
    decay_state,
    groups_in,
    make_tracks,
    read_channels,
    rows_of,
    scalars,
    set_initial_state,
)
from jmamba_kernels.selective_scan.tpu.elementwise import finish, step_size
from jmamba_kernels.selective_scan.tpu.layout import TOKENS, Layout


def scan_kernel(x, out, *, h_ref, wide, layout: Layout, delta_softplus, over_tokens):
    """Run the recurrence over a block of time."""
    tracks, y_track = make_tracks(x, wide), Track(out.y.at[0], wide["y"])
    parameters = read_channels(x)
    per_chunk, time = CHUNK // TOKENS, pl.program_id(3)
    set_initial_state(time, h_ref, x.initial_state)

    def token(group, t):
        now = group * TOKENS + t
        values = {name: track.read(group, t) for name, track in tracks.items()}
        delta = step_size(
            values["delta"], parameters.delta_bias, delta_softplus=delta_softplus
        )
        delta_u = delta * values["u"]
        B, C = scalars(x.B, layout, now), scalars(x.C, layout, now)
        terms = []
        for i in range(layout.padded_states):
            h = decay_state(x, delta, now, i) * h_ref[i] + delta_u * B(i)
            h_ref[i] = h
            terms.append(C(i) * h)
        s = add_up(terms)
        y_track.write(group, t, finish(s, values["u"], parameters.D, values.get("z")))

    def run_group(group, _):
        for track in tracks.values():
            track.open(group)
        over_tokens(partial(token, group))
        y_track.close(group)

    def run_chunk(chunk, _):
        if out.chunk_states is not None:
            for i in range(layout.padded_states):
                saved = out.chunk_states.at[0, chunk, i // TOKENS]
                saved[rows_of(i % TOKENS, saved)] = h_ref[i]
        first = chunk * per_chunk
        count = groups_in(layout, time, first, per_chunk)
        lax.fori_loop(first, first + count, run_group, None)

    lax.fori_loop(0, layout.chunks, run_chunk, None)

    @pl.when(time == layout.blocks - 1)
    def _():
        out.last_state[0, 0] = h_ref[...]
