"""The model as a function: continuing, padding, packing, messages."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from tiny_models import KINDS, VOCAB, count_traces, random_tokens, tiny_model

from jmamba.models import text_model

FP32 = 1e-5

MASK = jnp.array(
    [
        [0, 0, 0, 1, 1, 1, 1],  # left
        [1, 1, 1, 1, 0, 0, 0],  # right
        [1, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 0, 0],  # both
        [0, 0, 1, 0, 1, 1, 1],  # gaps
        [1, 1, 0, 0, 1, 1, 0],
        [1, 1, 1, 1, 1, 1, 1],
    ]
)


def row(cache, i):
    return jax.tree.map(lambda x: x[:, i : i + 1], cache)


@pytest.mark.parametrize("kind", KINDS)
def test_model_continued_equals_whole(kind):
    model, tokens = tiny_model(kind), random_tokens(2, 9)
    whole = model(tokens)
    head = model(tokens[:, :4])
    assert_close(head.logits, whole.logits[:, :4], FP32)
    tail = model(tokens[:, 4:], cache=head.cache)
    assert_close(tail.logits, whole.logits[:, 4:], FP32)
    assert_close(tail.cache, whole.cache, FP32)
    cache = head.cache
    for t in range(4, 9):
        step = model(tokens[:, t : t + 1], cache=cache)
        assert_close(step.logits[:, 0], whole.logits[:, t], FP32)
        cache = step.cache
    assert_close(cache, whole.cache, FP32)


def test_model_begins_from_empty_cache():
    model, tokens = tiny_model(), random_tokens(2, 1)
    empty = model.empty_cache(2)
    assert_close(model(tokens, cache=empty), model(tokens), FP32)
    chex.assert_trees_all_equal_shapes_and_dtypes(empty, model(tokens).cache)


@pytest.mark.parametrize(
    ("kind", "with_cache"), [("mamba", False), ("mamba", True), ("falcon", True)]
)
def test_model_padding_gives_each_row_what_it_gets_alone(kind, with_cache):
    model, tokens = tiny_model(kind), random_tokens(*MASK.shape)
    cache = model(random_tokens(7, 3, seed=5)).cache if with_cache else None
    padded = model(tokens, attention_mask=MASK, cache=cache)
    for i, mask in enumerate(MASK):
        at = np.flatnonzero(mask)
        alone = model(tokens[i : i + 1, at], cache=row(cache, i))
        assert_close(padded.logits[i, at], alone.logits[0], FP32)
        assert_close(row(padded.cache, i), alone.cache, FP32)


def test_model_padding_repeats_the_logits_before_it():
    mask = jnp.array([[1, 1, 0, 1, 0, 0, 1]])
    logits = tiny_model()(random_tokens(1, 7), attention_mask=mask).logits[0]
    chex.assert_trees_all_equal(logits[2], logits[1])
    chex.assert_trees_all_equal(logits[5], logits[3])


def test_model_row_of_padding_keeps_its_cache():
    model = tiny_model()
    cache = model(random_tokens(2, 3)).cache
    mask = jnp.array([[0, 0], [1, 1]])
    after = model(random_tokens(2, 2), attention_mask=mask, cache=cache).cache
    same = jax.tree.map(lambda x: x[:, 0], (after, cache))
    chex.assert_trees_all_equal(*same)


@pytest.mark.parametrize("kind", ["mamba", "falcon"])
@pytest.mark.parametrize(
    ("ids", "lengths"),
    [
        ([7, 7, 7, 7, 2, 3, 3, 3, 3], [4, 1, 4]),
        ([0, 0, 0, 0, 1, 0, 0, 0, 1], [4, 1, 3, 1]),
    ],
    ids=["new ids", "ids again"],
)
def test_model_packed_equals_separate(kind, ids, lengths):
    model, tokens = tiny_model(kind), random_tokens(1, 9)
    packed = model(tokens, segment_ids=jnp.array([ids]))
    ends = np.cumsum(lengths)
    alone = [
        model(tokens[:, end - length : end])
        for end, length in zip(ends, lengths, strict=True)
    ]
    logits = jnp.concatenate([x.logits for x in alone], axis=1)
    assert_close(packed.logits, logits, FP32)
    assert_close(packed.cache, alone[-1].cache, FP32)


def test_model_packed_and_padded_equals_packed_alone():
    model, tokens = tiny_model(), random_tokens(*MASK.shape)
    ids = jnp.tile(jnp.array([[0, 0, 1, 1, 1, 2, 3]]), (7, 1))
    padded = model(tokens, attention_mask=MASK, segment_ids=ids)
    for i, mask in enumerate(MASK):
        at = np.flatnonzero(mask)
        alone = model(tokens[i : i + 1, at], segment_ids=ids[i : i + 1, at])
        assert_close(padded.logits[i, at], alone.logits[0], FP32)
        assert_close(row(padded.cache, i), alone.cache, FP32)


def test_model_called_again_is_not_traced_again(monkeypatch):
    traces = count_traces(monkeypatch, text_model, "compact")
    model, tokens = tiny_model(seed=3), random_tokens(3, 5)  # used nowhere else
    mask = jnp.ones_like(tokens)
    first = model(tokens, attention_mask=mask)
    other = model((tokens + 1) % VOCAB, attention_mask=mask)
    assert len(traces) == 1
    assert bool(jnp.any(first.logits != other.logits))


def test_model_messages():
    model = tiny_model()
    with pytest.raises(ValueError, match=r"integers of shape \(batch, length\), but"):
        model(jnp.array([1, 2]))
    with pytest.raises(ValueError, match="got float32 of shape .* write jnp.array"):
        model(jnp.ones((1, 2)))
    for shape in [(1, 0), (0, 1)]:
        with pytest.raises(ValueError, match="tokens are empty .* at least one token"):
            model(jnp.zeros(shape, jnp.int32))
    for wrong in (-1, VOCAB):
        with pytest.raises(ValueError, match=rf"\[0, {VOCAB}\), but range from"):
            model(jnp.array([[1, wrong]]))
    with pytest.raises(ValueError, match=r"attention_mask has shape \(1, 3\), but"):
        model(random_tokens(1, 2), attention_mask=jnp.ones((1, 3), jnp.int32))
    with pytest.raises(IndexError, match="layer 2 of a model with 2 layers"):
        model.layer(2)
