import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close

from jmamba.attention import run_lengths
from jmamba.recipes.count_in_row import recipe as count_in_row
from jmamba.recipes.count_in_row.counters import KINDS, Counter, count, hit_loss
from jmamba.recipes.workbench import Workbench
from jmamba.training.classification import Labelled


@pytest.mark.parametrize("length", [1, 4, 8])
def test_no_guess_without_order_is_better(length):
    """The best answer to (bit, place, ones before), each by trial of all answers."""
    bits = np.array(list(itertools.product((0, 1), repeat=length)))
    runs, before = run_lengths(bits), np.cumsum(bits, axis=1) - bits
    guess = count_in_row.best_without_order(bits)
    for place, bit in itertools.product(range(length), (0, 1)):
        for ones in range(place + 1):
            same = (bits[:, place] == bit) & (before[:, place] == ones)
            true, guessed = runs[same, place], guess[same, place]
            assert len({*guessed.tolist()}) == 1
            assert (true == guessed).sum() == np.bincount(true).max()


@pytest.mark.parametrize("kind", KINDS)
def test_counters_are_causal_and_sums_over_tokens(kind):
    model = Counter(kind, 8, 3, rngs=nnx.Rngs(0))
    bits = count_in_row.draw_strings(3, 9, seed=(0,))
    whole = count(model, bits, batch=2)
    assert_close(count(model, bits[:, :5]), whole[:, :5], 1e-5)
    found = model.attend(jnp.asarray(bits))
    if kind == "softmax attention":
        assert_close(jnp.sum(found, axis=-1), np.ones((3, 9)), 1e-6)
        return
    x = jnp.take(model.embedding[...], jnp.asarray(bits), axis=0)
    recurrence = model.recurrence(x)
    rest = x + model.layer.mixer.mix(recurrence._replace(B=0 * recurrence.B))[0]
    assert_close(jnp.sum(found, axis=-1) + model.head(rest)[..., 0], whole, 1e-5)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_counters_without_decay_see_no_order(kind):
    model = Counter(kind, 8, 3, rngs=nnx.Rngs(0))
    last = count(model, np.array([[0, 1, 1, 0, 1], [1, 0, 0, 1, 1]], np.int32))[:, -1]
    assert abs(last[0] - last[1]) < 1e-5 * abs(last[0])
    other = count(model, np.array([[0, 1, 1, 1, 1]], np.int32))[0, -1]
    # the number of ones counts: ten times what their order may change by rounding
    assert abs(other - last[0]) > 1e-4 * abs(last[0])


def test_least_hit_loss_has_the_likeliest_count_in_front():
    """Two strings in three say 2: so does the answer of the least cross-entropy."""
    model = Counter("linear attention", 4, 2, 4, rngs=nnx.Rngs(0))
    bits = jnp.ones((3, 1), jnp.int32)
    batch = Labelled(bits, jnp.array([[2.0], [2.0], [1.0]]))
    share = jnp.log(jnp.array([1e-9, 1 / 3, 2 / 3, 1e-9]))
    model.head.kernel[...] = 0 * model.head.kernel[...]
    assert model.head.bias is not None
    model.head.bias[...] = share
    least = float(hit_loss(model, batch))
    assert least == pytest.approx(-(2 * np.log(2 / 3) + np.log(1 / 3)) / 3, rel=1e-5)
    slope = nnx.grad(hit_loss)(model, batch).head.bias[...]
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    assert (count(model, np.asarray(bits)) == 2).all()


def test_recipe_runs_to_its_table_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(count_in_row, "KINDS", ("softmax attention",))
    config = dataclasses.replace(
        count_in_row.SIZES["quick"], d_model=8, d_state=2, steps=(3,), batch=2,
        length=8, tested=(8, 24), strings=12, seeds=(0, 1),
    )  # fmt: skip

    def make():
        bench = Workbench(tmp_path / "out", name="count-in-row", config=config)
        count_in_row.run(config, bench)
        return bench.finish().read_text()

    text = make()
    right = "100.0 [100.0, 100.0]"
    for part in (f"| construction |  |  |  | {right} | {right} | {right} |",
                 "| softmax attention | hits | 3 |", "24 bits", "runs above 8",
                 "maps.png", "8 bits, 3 steps"):  # fmt: skip
        assert part in text
    assert make() == text
