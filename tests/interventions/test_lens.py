"""What each layer and token adds to a logit, and what each layer would say."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from three_models import KINDS, make_case

from jmamba.attention import token_vectors
from jmamba.attention.question import Contrast
from jmamba.interventions import capture, logit_lens, logit_shares, read_lens


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


def test_a_reading_is_the_lens_in_few_numbers(case):
    """Against probabilities in float64, layer by layer."""
    found = read_lens(case.model, case.inputs, layers=[0, -1], top=2)
    logits = np.asarray(logit_lens(case.model, case.inputs, layers=[0, -1]), np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    best = p[-1].argmax(-1)[..., None]
    order = np.argsort(-logits, axis=-1, kind="stable")[..., :2]
    np.testing.assert_array_equal(found.ids, order)
    assert_close(found.probabilities, np.take_along_axis(p, order, -1), 2e-6)
    assert_close(found.entropy, -(p * np.log2(p)).sum(-1), 2e-6)
    kl = (p[-1] * (np.log2(p[-1]) - np.log2(p))).sum(-1)
    np.testing.assert_allclose(found.divergence, kl, atol=2e-6 * kl.max() + 1e-6)
    own = np.stack([np.take_along_axis(one, best, -1)[..., 0] for one in p])
    assert_close(found.predicted, own, 2e-6)
    np.testing.assert_array_equal(found.rank, (p > own[..., None]).sum(-1))
    assert np.all(found.rank[-1] == 0)


def test_readings_that_cannot_be(case):
    with pytest.raises(ValueError, match=r"top=0: give 1 to \d+"):
        read_lens(case.model, case.inputs, top=0)
    with pytest.raises(ValueError, match="read_lens would return"):
        read_lens(case.model, case.inputs, memory_limit=100)
    with pytest.raises(ValueError, match="layers 0 to 1"):
        read_lens(case.model, case.inputs, layers=[2])
