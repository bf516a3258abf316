"""The tangent kernel for TPU."""

from functools import partial

import jax
from jax import lax
from jax.experimental import pallas as pl

from jmamba_kernels.selective_scan.powers import LN_2
from jmamba_kernels.selective_scan.tpu.blocks import (
    Track,
    add_up,
    decay_state,
    groups_in,
    keep_real,
    make_tracks,
    read_channels,
    scalars,
    set_initial_state,
)
from jmamba_kernels.selective_scan.tpu.elementwise import (
    finish,
    silu,
    step_size,
    step_slope,
)
from jmamba_kernels.selective_scan.tpu.layout import TOKENS


def tangent_kernel(
    x,
    t,
    d_y,
    d_last_state,
    *,
    h_ref,
    d_h_ref,
    wide,
    layout,
    delta_softplus,
    over_tokens,
):
    """Push the directions of a program together: they share the decays.

    h'[t] = A_bar[t] h'[t-1] + A_bar[t] h[t-1] (A delta'[t] + delta[t] A')
            + B[t] (delta u)'[t] + B'[t] delta[t] u[t]
    """
    directions = range(d_y.shape[0])
    tracks, parameters = make_tracks(x, wide), read_channels(x)
    t_tracks = [make_tracks(t, wide["t"][j], (j, 0)) for j in directions]
    t_parameters = [read_channels(t, (j, 0)) for j in directions]
    y_tracks = [Track(d_y.at[j, 0], wide["d_y"][j]) for j in directions]
    time = pl.program_id(3)
    set_initial_state(time, h_ref, x.initial_state)
    for j in directions:
        set_initial_state(time, d_h_ref.at[j], t.initial_state, (j, 0, 0))

    def token(group, token):
        now = group * TOKENS + token
        raw, u = (tracks[k].read(group, token) for k in ("delta", "u"))
        z = _read(tracks, "z", group, token)
        options = {
            "delta_bias": parameters.delta_bias,
            "delta_softplus": delta_softplus,
        }
        delta, slope = step_size(raw, **options), step_slope(raw, **options)
        delta_u = delta * u
        B, C = scalars(x.B, layout, now), scalars(x.C, layout, now)
        moves = []  # delta', u', z', (delta u)', each None where nothing moves
        for j in directions:
            d_raw, d_u, d_z = (
                _read(t_tracks[j], k, group, token) for k in ("delta", "u", "z")
            )
            d_bias = t_parameters[j].delta_bias
            if d_bias is not None:
                d_bias = keep_real(layout, time * layout.tokens + now, d_bias)
            d_delta = _product(slope, _add(d_raw, d_bias))
            d_input = _add(_product(u, d_delta), _product(delta, d_u))
            moves.append((d_delta, d_u, d_z, d_input))
        s, d_s = [], [[] for _ in directions]
        for i in range(layout.padded_states):
            A_bar = decay_state(x, delta, now, i)
            carried = A_bar * h_ref[i]
            h = carried + delta_u * B(i)
            h_ref[i] = h
            s.append(C(i) * h)
            for j, (d_delta, _, _, d_input) in enumerate(moves):
                d_h = A_bar * d_h_ref[j, i]
                if d_delta is not None:
                    d_h += carried * (LN_2 * x.A[0, i]) * d_delta
                if t.A is not None:
                    d_h += carried * delta * t.A[j, 0, i]
                if d_input is not None:
                    d_h += d_input * B(i)
                if t.B is not None:
                    d_h += delta_u * scalars(t.B, layout, now, (j, 0, 0, 0, 0))(i)
                d_h_ref[j, i] = d_h
                d_s[j].append(C(i) * d_h)
                if t.C is not None:
                    d_s[j].append(scalars(t.C, layout, now, (j, 0, 0, 0, 0))(i) * h)
        s = add_up(s)
        for j, (_, d_u, d_z, _) in enumerate(moves):
            d_skip = _add(_product(parameters.D, d_u), _product(t_parameters[j].D, u))
            d_q = _add(add_up(d_s[j]), d_skip)
            d_out = _finish(finish(s, u, parameters.D), z, d_q, d_z)
            y_tracks[j].write(group, token, d_out)

    def run_group(group, _):
        for track in (*tracks.values(), *(v for r in t_tracks for v in r.values())):
            track.open(group)
        over_tokens(partial(token, group))
        for track in y_tracks:
            track.close(group)

    lax.fori_loop(0, groups_in(layout, time), run_group, None)

    @pl.when(time == layout.blocks - 1)
    def _():
        d_last_state[:, 0, 0] = d_h_ref[...]


def _finish(q, z, d_q, d_z):
    """Push q = s + D u and z through y = q silu(z)."""
    if z is None:
        return d_q
    d_y = d_q * silu(z)
    if d_z is None:
        return d_y
    _, d_gate = jax.jvp(silu, (z,), (d_z,))
    return d_y + q * d_gate


def _read(tracks, name, group, token):
    return tracks[name].read(group, token) if name in tracks else None


def _add(x, y):
    """Add where None stands for zero."""
    if x is None or y is None:
        return y if x is None else x
    return x + y


def _product(x, y):
    """Multiply where None stands for zero."""
    return None if x is None or y is None else x * y
