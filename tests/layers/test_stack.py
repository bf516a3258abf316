"""The walk over layers: what is edited where, in models of one direction and of two."""

import jax.numpy as jnp
import pytest
from helpers import assert_close
from quick_programs import quick_jit
from random_models import random_text_model, random_tokens
from vision_definition import draw_images, tiny_vim

from jmamba.layers import PLACES


@pytest.fixture(scope="module", params=["text", "image"])
def walked(request):
    """Return a model of two layers or more, its first residual stream and its last."""
    is_text = request.param == "text"
    model = random_text_model(layers=2) if is_text else tiny_vim()
    x = model.embed(random_tokens() if is_text else jnp.asarray(draw_images()))
    return model, x, model.run_layers(x).x


def numbered(model):
    return jnp.arange(model.config.num_layers)


@pytest.mark.parametrize("place", PLACES)
def test_an_edit_that_changes_nothing_changes_nothing(walked, place):
    model, x, expected = walked
    found = model.run_layers(x, edit={place: lambda value, own: value}).x
    assert_close(found, expected, 1e-6)


def test_without_y_a_layer_adds_nothing(walked):
    """The output projections have no biases, so what the gates meet is all there is."""
    model, x, expected = walked

    def silence(y, layer):
        if isinstance(y, tuple):
            return tuple(silence(part, layer) for part in y)
        return jnp.where(layer == 1, 0, y)

    kept = model.run_layers(x, read=lambda block, x, out: out.x).found[0]
    found = model.run_layers(x, edit={"y": silence}, edits=numbered(model))
    if model.config.num_layers == 2:
        assert_close(found.x, kept, 1e-6)
    assert float(jnp.abs(found.x - expected).max()) > 1e-3


def test_doubling_y_doubles_what_the_projection_reads(walked):
    model, x, _ = walked
    gated = []

    def note(value, own):
        gated.append(value)
        return value

    def double(y, own):
        return tuple(2 * part for part in y) if isinstance(y, tuple) else 2 * y

    block = model.layer(0)
    for edit in ({}, {"y": lambda y: double(y, None)}):
        block(x, edit={"gated": lambda value: note(value, None), **edit})
    assert_close(gated[1], 2 * gated[0], 1e-6)


def test_a_place_that_is_not_there_is_refused(walked):
    model, x, _ = walked
    with pytest.raises(ValueError, match="no place 'outptu' .* output, residual_out"):
        model.run_layers(x, edit={"outptu": lambda value, own: value})


def test_a_walk_may_begin_at_any_layer(walked):
    """Layers before it are passed by and read as zeros, also where few are kept."""
    model, x, expected = walked
    last = model.config.num_layers - 1
    entering = model.run_layers(x, read=lambda block, x, out: x).found

    @quick_jit
    def run_from(first, x):
        def read(block, x, out):
            return out.x

        every = model.run_layers(x, first=first, read=read)
        return every, model.run_layers(x, first=first, read=read, only=[last])

    for first in (0, last):
        every, few = run_from(jnp.array(first), entering[first])
        assert_close(every.x, expected, 2e-6)
        assert_close(few.found[0], expected, 2e-6)
        assert every.cache is None
        assert not every.found[:first].any() and every.found[first:].any()
