"""Sweeps are their edits one by one, in one program; what is estimated of them."""

from typing import Any, cast

import numpy as np
import pytest
from helpers import assert_close
from random_models import random_text_model, random_tokens
from three_models import make_case

from jmamba.attention.question import Contrast
from jmamba.interventions import (
    Sweep,
    attribution_patching,
    capture,
    cut_attention,
    patch,
    patching_error,
    replace,
    run,
    sweep,
    sweep_patches,
    sweeps,
)

X, Y = random_tokens(), random_tokens(seed=1)
GRID = {"layers": range(2), "positions": range(7)}


def programs_so_far() -> int:
    return cast(Any, sweeps.measure_cells)._cache_size()


@pytest.fixture(scope="module")
def model():
    return random_text_model(layers=2)


@pytest.fixture(scope="module")
def patches(model):
    """A sweep of patches of Y into X, and how many programs it made."""
    before = programs_so_far()
    made = sweep_patches(model, Y, X, target=5)
    return made, programs_so_far() - before


def test_a_sweep_is_its_runs_one_by_one_and_one_program(model, patches):
    made, programs = patches
    assert programs == 1
    kept = capture(model, Y, "residual_out")
    for layer, token in ((0, 2), (1, 6), (0, 0)):
        edit = patch("residual_out", kept, positions=token)
        value = replace(
            "residual_out", edit.value[layer], layers=layer, positions=token
        )
        found = run(model, X, value).logits[:, -1, 5]
        assert_close(made.values[layer, token], found, 2e-6)
    assert_close(made.base, model(X).logits[:, -1, 5], 2e-6)
    assert_close(made.goal, model(Y).logits[:, -1, 5], 2e-6)
    assert_close(made.recovered[1, 6], np.ones(2), 1e-5)  # all that is read off
    assert made.best()["positions"] == 6 and "2 layers x 7 positions" in repr(made)


def test_little_memory_is_more_rounds_of_one_program(model, patches, tmp_path):
    """And a sweep that was interrupted goes on where it was."""
    kept = capture(model, Y, "residual_out")["residual_out"]
    seen, file = [], tmp_path / "sweep.json"

    def stop_after_one(stage, done, total):
        seen.append((done, total))
        if len(seen) == 1:
            raise KeyboardInterrupt

    def start(progress):
        return sweep(
            *(model, X, replace("residual_out", kept), GRID),
            target=5,
            memory_limit=40_000,
            file=file,
            progress=progress,
        )

    with pytest.raises(KeyboardInterrupt):
        start(stop_after_one)
    first = seen[0][0]
    assert 0 < first < 15
    before = programs_so_far()
    made = start(lambda *told: seen.append(told[1:]))
    assert seen[1][0] > first and seen[-1] == (15, 15)
    assert programs_so_far() == before
    assert_close(made.values, patches[0].values, 2e-6)
    again = start(lambda *told: pytest.fail("nothing is left to do"))
    np.testing.assert_array_equal(again.values, made.values)
    with pytest.raises(ValueError, match="other settings|settings"):
        sweep(model, Y, replace("residual_out", kept), GRID, target=5, file=file)


def test_pairs_of_attention_are_an_axis_too():
    case = make_case("vim")
    edit = cut_attention([(2, 1)], name="forward.alpha")
    over = {"values": [[(2, 1)], [(9, 4)]], "layers": [1]}
    target = Contrast(1, 3)
    made = sweep(case.model, case.inputs, edit, over, target=target)
    cut = cut_attention([(9, 4)], name="forward.alpha", layers=1)
    logits = run(case.model, case.inputs, cut).logits
    assert_close(made.values[1, 0], logits[:, 1] - logits[:, 3], 2e-6)


def test_what_is_linear_is_estimated_exactly(model):
    """The logits are linear in what the final norm puts out."""
    exact = sweep_patches(model, Y, X, "final_norm", target=5)
    estimate = attribution_patching(model, Y, X, "final_norm", target=5)
    assert exact.values.shape == (7, 2)
    error = patching_error(estimate, exact)
    assert error.correlation > 0.999 and error.worst < 1e-4


def test_the_error_of_an_estimate_is_said(model, patches):
    estimate = attribution_patching(model, Y, X, target=5)
    error = patching_error(estimate, patches[0])
    guessed = np.moveaxis(np.asarray(estimate.values), 1, 2).ravel()
    change = patches[0].change.ravel()
    assert abs(error.correlation - np.corrcoef(guessed, change)[0, 1]) < 1e-5
    assert (
        0
        < error.worst
        == pytest.approx(
            np.abs(guessed - change).max() / np.abs(change).max(), rel=1e-4
        )
    )
    with pytest.raises(ValueError, match="sweep over all layers and positions"):
        patching_error(estimate._replace(values=estimate.values[:1]), patches[0])


def test_a_sweep_draws_itself(patches):
    made, _ = patches
    figure = made.draw([f"t{i}" for i in range(7)])
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.get_xticklabels()][:2] == ["t0", "t1"]
    np.testing.assert_allclose(ax.images[0].get_array(), made.recovered.mean(-1))
    assert made._repr_png_()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="3 labels for positions up to 6"):
        made.draw(["a", "b", "c"])


def test_sweeps_that_cannot_be(model):
    edit = replace("output", 0.0)
    with pytest.raises(ValueError, match="is no axis; give some of layers, positions"):
        sweep(model, X, edit, {"layer": [0]})
    with pytest.raises(ValueError, match="over is empty"):
        sweep(model, X, edit, {})
    with pytest.raises(ValueError, match="has no entries"):
        sweep(model, X, edit, {"layers": []})
    with pytest.raises(
        ValueError, match=r"layers=\[0, 2\] of 'output' is out of range"
    ):
        sweep(model, X, edit, {"layers": [0, 2]})
    with pytest.raises(ValueError, match="given by over= and by the edit"):
        sweep(model, X, replace("output", 0.0, layers=1), {"layers": [0]})
    with pytest.raises(ValueError, match="One point takes .* raise memory_limit"):
        sweep(model, X, edit, {"layers": [0]}, memory_limit=100)
    with pytest.raises(ValueError, match="give inputs of as many tokens"):
        sweep_patches(model, X, X[:, 1:])
    with pytest.raises(ValueError, match="no goal; look at `change`"):
        _ = Sweep(np.ones((1, 1)), np.ones(1), {}, "").recovered
