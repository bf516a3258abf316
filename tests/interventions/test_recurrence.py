"""Edits inside of a recurrence, against its definition in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from random_models import random_text_model, random_tokens
from three_models import KINDS, make_case

import jmamba
from jmamba.interventions import (
    add,
    capture,
    cut_attention,
    patch_state,
    replace,
    run,
    scale,
    zero,
)

PARTS = ("u", "delta", "B", "C", "y", "h", "attended")
TOKEN, LAYER = 3, 1


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    return make_case(request.param)


def widen(x, channels):
    """Give each channel of a head what the head has: axis 2."""
    return np.repeat(x, channels // x.shape[2], axis=2)


def definition(parts, A, D, *, is_mirrored, decay=None, gates=None, state=None):
    """Run h[t] = a h[t-1] + w u, y = C h + D u, in float64, with edits on the way.

    Args:
      parts: u, delta, B, C (b l ...), in the order of the text.
      A: rates (h n).
      D: skip weights (d,).
      is_mirrored: whether the last token is read first.
      decay, gates, state: edit(value, token) of a token's decays, delta B and state.
    """
    u, delta, B, C = (np.asarray(parts[name], np.float64) for name in PARTS[:4])
    d, heads = u.shape[2], delta.shape[2]
    B, C = (np.repeat(x, heads // x.shape[2], axis=2) for x in (B, C))
    a, w = np.exp(delta[..., None] * np.asarray(A, np.float64)), delta[..., None] * B
    h, y, states = np.zeros((len(u), d, B.shape[-1])), np.zeros(u.shape), []
    tokens = range(u.shape[1])
    for t in reversed(tokens) if is_mirrored else tokens:
        at, wt = (x[:, t] if edit is None else edit(x[:, t], t)
                  for x, edit in ((a, decay), (w, gates)))  # fmt: skip
        at, wt, ct = (np.repeat(x, d // heads, axis=1) for x in (at, wt, C[:, t]))
        h = at * h + wt * u[:, t, :, None]
        h = h if state is None else state(h, t)
        y[:, t] = (h * ct).sum(-1) + np.asarray(D, np.float64) * u[:, t]
        states.append(h)
    states = states[::-1] if is_mirrored else states
    return y, np.stack(states, axis=1)


def recurrence_of(case, direction):
    """Return A and D of one direction of the layer."""
    made = jmamba.trace(case.model, case.inputs, layers=[LAYER]).layer(LAYER)
    return getattr(made, direction.rstrip(".")) if direction else made


def test_decays_gates_and_states_are_those_of_the_definition(case):
    for direction in case.directions:
        where = {"layers": LAYER, "positions": TOKEN}
        edits = [
            scale(f"{direction}decay", 0.5, **where),
            zero(f"{direction}delta_B", **where, states=[1]),
            add(f"{direction}h", 0.3, layers=LAYER, positions=[1, 4], channels=[0, 2]),
        ]
        names = [direction + name for name in PARTS]
        kept = run(case.model, case.inputs, edits, names=names, layers=[LAYER])
        parts = {name: kept[direction + name][0] for name in PARTS}
        made = recurrence_of(case, direction)

        def decay(a, t):
            return 0.5 * a if t == TOKEN else a

        def gates(w, t):
            return w * np.array([1, 0, 1]) if t == TOKEN else w

        def state(h, t):
            more = np.zeros(h.shape)
            more[:, [0, 2]] = 0.3 if t in (1, 4) else 0
            return h + more

        edited = {"decay": decay, "gates": gates, "state": state}
        mirrored = direction == "backward."
        y, h = definition(parts, made.A, made.D, is_mirrored=mirrored, **edited)
        assert_close(parts["y"], y, 2e-6)
        assert_close(parts["h"], h, 2e-6)
        skipped = np.asarray(made.D) * np.asarray(parts["u"])
        assert_close(parts["attended"], y - skipped, 2e-6)


def dense_alpha(parts, A, *, is_mirrored):
    """Return alpha (b h l l) of all pairs in float64, by its formula."""
    delta, B, C = (np.asarray(parts[name], np.float64) for name in PARTS[1:4])
    batch, length, heads = delta.shape
    B, C = (np.repeat(x, heads // x.shape[2], axis=2) for x in (B, C))
    alpha, A = np.zeros((batch, heads, length, length)), np.asarray(A, np.float64)
    for i in range(length):
        for j in range(length):
            if j < i if is_mirrored else j > i:
                continue
            between = range(i, j) if is_mirrored else range(j + 1, i + 1)
            passed = sum((delta[:, k] for k in between), np.zeros((batch, heads)))
            decay = np.exp(passed[..., None] * A)
            alpha[:, :, i, j] = (C[:, i] * decay * B[:, j]).sum(-1) * delta[:, j]
    return alpha


def test_a_pair_that_is_cut_is_cut_of_the_matrix(case):
    direction = case.directions[-1]  # the mirrored one of a Vim
    mirrored = direction == "backward."
    pair = [(2, 5) if mirrored else (5, 2)]
    names = [direction + name for name in PARTS[:5]]
    usual = capture(case.model, case.inputs, names, layers=[LAYER])
    parts = {name: usual[direction + name][0] for name in PARTS[:5]}
    alpha = dense_alpha(parts, recurrence_of(case, direction).A, is_mirrored=mirrored)
    i, j = pair[0]
    gone = np.repeat(alpha[:, :, i, j], parts["u"].shape[2] // alpha.shape[1], axis=1)
    expected = np.asarray(parts["y"], np.float64)
    expected[:, i] -= gone * np.asarray(parts["u"][:, j], np.float64)
    cut = cut_attention(pair, name=f"{direction}alpha", layers=LAYER)
    found = run(case.model, case.inputs, cut, names=f"{direction}y", layers=[LAYER])
    assert_close(found[f"{direction}y"][0], expected, 2e-6)
    assert np.abs(expected - parts["y"]).max() > 1e-4
    by_hand = replace(f"{direction}y", expected.astype(np.float32), layers=LAYER)
    assert_close(run(case.model, case.inputs, by_hand).logits, found.logits, 2e-6)


def test_cutting_all_pairs_is_zeroing_the_recurrence(case):
    length = case.model.count_tokens(case.inputs.shape)
    below = np.stack(np.tril_indices(length), axis=1)
    cuts, zeros = [], []
    for direction in case.directions:
        pairs = below[:, ::-1] if direction == "backward." else below
        cuts.append(cut_attention(pairs, name=f"{direction}alpha"))
        zeros.append(zero(f"{direction}attended"))
    expected = run(case.model, case.inputs, zeros).logits
    assert_close(run(case.model, case.inputs, cuts).logits, expected, 5e-6)


def test_going_on_from_the_other_states_is_going_on_from_the_other_prefix(case):
    """With the convolution's window of the other prefix, in all layers."""
    if case.model.reads == "images":
        pytest.skip("a prefix of an image is no input")
    model, others = case.model, case.others
    kept = capture(model, others, ["h", "x"])
    edits = [patch_state(kept, TOKEN)]
    for token in range(TOKEN - 2, TOKEN + 1):  # a window of 4
        edits.append(replace("x", kept["x"][:, :, token : token + 1], positions=token))
    found = run(model, case.inputs, edits).logits[:, TOKEN + 1 :]
    before = model(others[:, : TOKEN + 1])
    after = model(case.inputs[:, TOKEN + 1 :], cache=before.cache).logits
    assert_close(found, after, 2e-6)


def test_the_state_of_one_layer_goes_on_in_that_layer():
    """Where the windows of both prompts hold the same tokens."""
    model, mine = random_text_model(layers=2), random_tokens()
    other = mine.at[:, 0].set((mine[:, 0] + 1) % 24)
    kept = capture(model, other, ["h", "y"])
    patched = patch_state(kept, 4, layers=0)
    found = run(model, mine, patched, names="y", layers=[0])["y"][0, :, 5:]
    assert_close(found, kept["y"][0, :, 5:], 2e-6)
    assert float(jnp.abs(capture(model, mine, "y")["y"][0] - kept["y"][0])[:, 5:].max())
