"""Edits with what was captured, and edits with what another run captured.

All edits of a model are one program, in which each is switched on by itself: what is
compared has then been compiled alike, bit for bit.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close
from three_models import KINDS, make_case

from jmamba.interventions import Edit, Point, capture, run
from jmamba.interventions.walking import keep_values


@pytest.fixture(scope="module", params=KINDS)
def switched(request):
    """Return a case, names of its places, and run(inputs, values, on)."""
    case = make_case(request.param)
    model, layers = case.model, tuple(range(case.model.config.num_layers))
    names = tuple(place.name for place in model.places if place.axes)
    graphdef, state = nnx.split(model)

    def start(inputs, values, on):
        edits = [Edit(Point(n), "replace", values[n], is_on=on[n]) for n in names]
        return keep_values(graphdef, state, inputs, edits, names, layers, None)

    def switches(*wanted):
        return {name: jnp.asarray(name in wanted) for name in names}

    like = jax.eval_shape(
        partial(keep_values, graphdef, names=names, layers=layers, positions=None),
        *(state, case.inputs, ()),
    )[1]
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    own, other = (start(x, nothing, switches()) for x in case[1:3])
    return case, names, start, switches, own, other


def test_an_edit_with_what_was_captured_changes_no_bit(switched):
    case, names, start, switches, (logits, values), _ = switched
    for name in names:
        found, seen = start(case.inputs, values, switches(name))
        np.testing.assert_array_equal(found, logits, name)
        for other in names:
            np.testing.assert_array_equal(seen[other], values[other], (name, other))


def test_patching_everything_of_a_run_gives_that_run(switched):
    case, names, start, switches, _, (logits, values) = switched
    found, seen = start(case.inputs, values, switches(*names))
    np.testing.assert_array_equal(found, logits)
    for name in names:
        np.testing.assert_array_equal(seen[name], values[name], name)


@pytest.mark.parametrize("name", ["embedding", "residual_in", "normalised", "output"])
def test_what_all_goes_through_carries_the_other_run(switched, name):
    """Alone or, where the residual stream goes past it, with the embedding."""
    case, _, start, switches, _, (logits, values) = switched
    found, _ = start(case.inputs, values, switches("embedding", name))
    assert_close(found, logits, 2e-6)


def test_a_watched_run_is_the_plain_one(switched):
    case, _, _, _, (logits, values), _ = switched
    plain = case.model(case.inputs)
    assert_close(getattr(plain, "logits", plain), logits, 2e-6)
    kept = capture(case.model, case.inputs, layers=[-1], positions=[2, 0])
    for name, value in kept.values.items():
        axes = next(place.axes for place in case.model.places if place.name == name)
        expected = values[name]
        is_outside = name in ("embedding", "final_norm", "logits")
        expected = expected if is_outside else expected[-1:]
        if axes[1] == "l":
            expected = jnp.take(expected, jnp.array([2, 0]), axis=2 - is_outside)
        assert_close(value, expected, 2e-6, name)


def test_places_have_the_axes_they_say(switched):
    case, names, _, _, (_, values), _ = switched
    sizes = {"b": 2, "m": case.model.config.d_model}
    places = {place.name: place for place in case.model.places}
    for name in names:
        is_outside = name in ("embedding", "final_norm", "logits")
        shape = values[name].shape[0 if is_outside else 1 :]
        assert len(shape) == len(places[name].axes), name
        for letter, size in zip(places[name].axes, shape, strict=True):
            if letter in "bm":
                assert size == sizes[letter], name


def test_layers_tokens_and_channels_are_those_asked_for():
    case = make_case("mamba")
    where = {"layers": 1, "positions": [-1, 2], "channels": [3, 5]}
    edit = Edit(Point("gated", **where), "add", jnp.asarray(7.0))
    kept = capture(case.model, case.inputs, "gated")["gated"]
    found = run(case.model, case.inputs, edit, names="gated")["gated"]
    expected = np.zeros(kept.shape)
    for token in (-1, 2):
        for channel in (3, 5):
            expected[1, :, token, channel] = 7
    assert_close(found - kept, expected, 1e-6)
