"""What each layer and token adds to a logit, and what each layer would say."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from three_models import KINDS, make_case

from jmamba.attention import token_vectors
from jmamba.attention.question import Contrast
from jmamba.interventions import capture, logit_lens, logit_shares


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    return make_case(request.param)


@pytest.fixture(scope="module")
def shares(case):
    """The shares of logit 3 less logit 1 or 2, read off token 4."""
    target = Contrast(3, jnp.array([1, 2]))
    return logit_shares(case.model, case.inputs, target=target, query=4)


@pytest.fixture(scope="module")
def stream(case):
    return capture(case.model, case.inputs, ["residual_in", "residual_out"])


def test_shares_add_up_to_the_logit(case, shares, stream):
    logits = case.model.read(stream["residual_out"][-1], 4)
    expected = logits[:, 3] - logits[jnp.arange(2), jnp.array([1, 2])]
    whole = shares.embedding + shares.layers.sum(0) + shares.head
    assert_close(whole, expected, 1e-4)
    assert_close(shares.sources.sum(-1) + shares.biases, shares.layers, 1e-4)
    assert_close(shares.logit, expected, 1e-5)


def test_shares_of_sources_are_those_of_token_vectors(case, shares, stream):
    last = np.asarray(stream["residual_out"][-1, :, 4])
    rms = np.sqrt((last**2).mean(-1, keepdims=True) + case.model.config.norm_eps)
    if case.model.reads == "images":
        head = np.asarray(case.model.head.kernel[...]).T
    else:
        head = np.asarray(case.model.embedding[...])
    scale = np.asarray(case.model.norm_f.scale[...])
    slope = (head[3] - head[[1, 2]]) * scale / rms
    vectors, _ = token_vectors(case.model.layer(1), stream["residual_in"][1])
    expected = np.einsum("bjm,bm->bj", vectors[:, 4], slope)
    assert_close(shares.sources[1], expected, 1e-4)


def test_the_lens_of_the_last_layer_is_the_model(case, stream):
    lens = logit_lens(case.model, case.inputs, positions=[3, -1])
    kept = stream["residual_out"]
    for place, token in enumerate((3, kept.shape[2] - 1)):
        expected = case.model.read(kept[0], token)
        assert_close(lens[0, :, place], expected, 2e-6)
    assert_close(lens[-1, :, 0], case.model.read(kept[-1], 3), 2e-6)
    with pytest.raises(ValueError, match="over the limit .* raise memory_limit"):
        logit_lens(case.model, case.inputs, memory_limit=100)
