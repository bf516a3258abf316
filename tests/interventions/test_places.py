"""Names of what passes, those of others, and requests that cannot be met."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from three_models import KINDS, make_case

from jmamba.interventions import (
    Edit,
    Point,
    ablate,
    add,
    capture,
    cut_attention,
    locate_place,
    patch,
    patch_state,
    place_table,
    replace,
    resample,
    run,
    zero,
)

PAGE = Path(__file__).parents[2] / "docs/interventions.md"
MAMBA, MAMBA2, VIM = (make_case(kind) for kind in KINDS)

THEIRS = {  # what MambaLens and TransformerLens say, and what it is here
    "hook_embed": "embedding", "hook_resid_pre": "residual_in",
    "hook_layer_input": "input", "hook_normalized_input": "normalised",
    "hook_in_proj": "x", "hook_skip": "z", "hook_conv": "conv", "hook_ssm_input": "u",
    "hook_delta_1": "dt", "hook_delta_2": "raw_delta", "hook_delta": "delta",
    "hook_A_bar": "decay", "hook_B": "B", "hook_B_bar": "delta_B", "hook_C": "C",
    "hook_h": "h", "hook_y": "attended", "hook_ssm_output": "y",
    "hook_after_skip": "gated", "hook_out_proj": "output",
    "hook_resid_post": "residual_out", "hook_norm": "final_norm",
    "hook_logits": "logits", "mixer.conv1d.hook_out": "conv",
    "mixer.dt_proj.hook_in": "dt", "mixer.out_proj.hook_out": "output",
    "ln_final.hook_normalized": "final_norm",
}  # fmt: skip


@pytest.mark.parametrize("name", THEIRS)
def test_names_of_others_are_understood(name):
    assert locate_place(MAMBA.model, name).place.name == THEIRS[name]
    if THEIRS[name] not in ("embedding", "final_norm", "logits"):
        found = locate_place(MAMBA.model, f"blocks.1.{name}")
        assert (found.place.name, found.layer) == (THEIRS[name], 1)


def test_a_token_of_the_states_is_a_name():
    assert locate_place(MAMBA.model, "blocks.0.hook_h.5")[1:] == (0, 5)
    kept = capture(MAMBA.model, MAMBA.inputs, "h", positions=[5, 2])
    np.testing.assert_array_equal(kept["blocks.1.hook_h.2"], kept["h"][1, :, 1])


@pytest.mark.parametrize(
    ("case", "name", "near"),
    [
        (MAMBA, "hook_detla", "delta"),
        (MAMBA2, "residual_mid", "residual_"),
        (VIM, "delta", "forward.delta|backward.delta"),
    ],
    ids=KINDS,
)
def test_unknown_names_are_offered_the_nearest(case, name, near):
    with pytest.raises(ValueError, match=f"the nearest are .*({near}).*; there are"):
        locate_place(case.model, name)


def test_the_page_has_the_tables_of_the_code():
    text = PAGE.read_text()
    for case in (MAMBA, MAMBA2, VIM):
        for name, axes, says, *others in place_table(case.model):
            cells = [f"`{name}`", f"`{axes}`" if axes else "", says]
            cells += [", ".join(f"`{x}`" for x in o.split(", ") if x) for o in others]
            row = "| " + " | ".join(cells) + " |"
            is_backward = name.startswith("backward.")
            assert is_backward or re.sub(" +", " ", row) in re.sub(" +", " ", text), row


def bad(run_it, message):
    return pytest.param(run_it, message, id=message[:30])


def edit(*edits, case=MAMBA):
    return lambda: run(case.model, case.inputs, edits)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        bad(edit(zero("u", positions=9)), r"positions=9 of 'u' is out of .* 0 to 6"),
        bad(
            edit(zero("u", layers=[0, -3])), r"layers=\[0, -3\] of 'u' is out of range"
        ),
        bad(
            edit(Edit(Point("u", channels=0.5), "zero")),
            "channels=0.5 of 'u': give one integer",
        ),
        bad(edit(zero("u", states=1)), "'u' has no states to choose; it has layers"),
        bad(edit(zero("logits", layers=1)), "'logits' has no layers to choose"),
        bad(edit(zero("dt", heads=1)), "'dt' has no heads to choose"),
        bad(
            edit(add("u", jnp.ones((3, 3)))),
            r"add of 'u' has a value of shape \(3, 3\)",
        ),
        bad(edit(replace("u", jnp.ones((3, 2, 7, 16)))), "with an axis of layers"),
        bad(edit(Edit(Point("u"), "scale")), "scale of 'u' needs a value"),
        bad(
            edit(Edit(Point("u"), "double")), "op='double' of 'u': give one of replace"
        ),
        bad(edit(zero("alpha")), r"give cut_attention\(pairs\)"),
        bad(edit(Edit(Point("h"), "mean")), "no mean over tokens yet: give replace"),
        bad(edit(cut_attention([(1, 3)])), "reads token j only where j <= i"),
        bad(edit(cut_attention([(3, 1), (3, 1)])), "name a pair twice"),
        bad(edit(cut_attention([(9, 1)])), "name tokens out of range: give 0 to 6"),
        bad(edit(cut_attention([3, 1])), r"shape \(2,\); give \(i, j\) of each"),
        bad(
            edit(zero("blocks.1.u", layers=0)), "says which layers, and so does layers="
        ),
        bad(
            edit(zero("u", layers=1), replace("hook_ssm_input", 1.0, positions=2)),
            "'u' contradict each other: zero and replace meet at layers=1 and pos",
        ),
        bad(
            lambda: capture(MAMBA.model, MAMBA.inputs, ["h", "z"], memory_limit=6000),
            "over the limit of 6,000 bytes; .* of it are 'h'",
        ),
        bad(
            lambda: capture(MAMBA.model, MAMBA.inputs, "alpha"),
            "never made as a whole; jmamba.attention.hidden_attention",
        ),
        bad(
            lambda: capture(MAMBA.model, MAMBA.inputs, "u", positions=[7]),
            "positions go from 0 to 6",
        ),
        bad(lambda: resample("u", batch=1), "give inputs of several samples"),
        bad(lambda: ablate("norm"), "part='norm' of a layer is unknown; give one of"),
    ],
)
def test_what_cannot_be_done_is_said(start, message):
    with pytest.raises(ValueError, match=message):
        start()


def test_edits_that_are_none_and_apart_and_sources_that_lack_something():
    with pytest.raises(TypeError, match="edits hold a str; give what replace"):
        run(MAMBA.model, MAMBA.inputs, ["zero"])  # pyright: ignore[reportArgumentType]
    apart = [zero("u", layers=0), replace("u", 1.0, layers=-1)]
    assert run(MAMBA.model, MAMBA.inputs, apart).logits.shape == (2, 7, 24)
    kept = capture(MAMBA.model, MAMBA.inputs, "h", layers=[1], positions=[2])
    assert "h (1, 2, 1, 16, 3)" in repr(kept)
    with pytest.raises(ValueError, match="capture without positions="):
        patch("h", kept)
    with pytest.raises(ValueError, match=r"capture it with positions=\[3\]"):
        patch_state(kept, 3)
    with pytest.raises(KeyError, match="'z' was not captured, only h"):
        _ = kept["hook_skip"]
    with pytest.raises(KeyError, match=r"layers \[1\] were captured, not 0"):
        _ = kept["blocks.0.h"]


def test_what_is_traced_is_not_checked():
    shape = jax.eval_shape(
        lambda token: run(MAMBA.model, MAMBA.inputs, zero("u", positions=token)).logits,
        jnp.asarray(1),
    )
    assert shape.shape == (2, 7, 24)
