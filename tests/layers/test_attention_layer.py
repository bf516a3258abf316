"""Softmax attention as a layer: its own numbers, its cache, its matrices."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, quick_jit

from jmamba import attention
from jmamba.layers import MAMBA_LRP, UNIFIED, Block, Precision, RMSNorm, softmax
from jmamba.layers.attention import SelfAttention
from jmamba.layers.attention_sizes import AttentionSizes
from jmamba.layers.feed_forward import FeedForward
from jmamba.layers.rotary import rotate_pairs
from jmamba.types import AttentionCache, KeyValues, SoftmaxAttention
from jmamba_kernels.versions import enable_x64

SINGLE = Precision(jnp.dtype("float32"), jnp.dtype("float32"))
SIZES: dict[str, Any] = {
    "d_model": 8,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_kv_heads": 2,
}


def wave(start, *shape):
    """Return sin(start + 0.7 i), i the index in C order, in float64."""
    return np.sin(start + 0.7 * np.arange(np.prod(shape))).reshape(shape)


def make_block(*, is_fused=True, scale=0.5, **sizes) -> Any:
    rngs = nnx.Rngs(0)
    mixer = SelfAttention(AttentionSizes(**SIZES | sizes), precision=SINGLE, rngs=rngs)

    def norm():
        return RMSNorm(8, eps=1e-5, precision=SINGLE)

    feed_forward = FeedForward(
        12, norm(), d_model=8, is_fused=is_fused, precision=SINGLE, rngs=rngs
    )
    return Block(norm(), mixer, feed_forward=feed_forward, scale=scale)


def stream(length=7, batch=2):
    return jnp.asarray(wave(0.3, batch, length, 8), jnp.float32)


def test_weights_have_the_golden_number():
    """Number 10 of the golden ones: two heads, one group, rope on half of the head."""
    length = 6
    with enable_x64():
        places = jnp.arange(length)[None]
        q, k = (
            rotate_pairs(jnp.asarray(x)[None], places, 4)
            for x in (wave(0.1, length, 2, 8), wave(0.2, length, 1, 8))
        )
        made = SoftmaxAttention(q * 8**-0.5, k, k, places, 0 * places)
        alpha = np.asarray(attention.hidden_attention(made))
    np.testing.assert_allclose(alpha[0, 1, 5, 0], 0.161287200335, rtol=1e-11)
    np.testing.assert_allclose(alpha.sum(-1), 1, rtol=1e-12)
    assert not np.triu(alpha[0, 0], 1).any()


def definition(block, x):
    """Compute the block token by token and head by head in NumPy, in float64."""

    def norm(x, scale):
        rms = np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-5)
        return x / rms * np.asarray(scale, np.float64)

    def weights(layer):
        return np.asarray(layer.kernel[...], np.float64)

    mixer, ff, sizes = block.mixer, block.feed_forward, block.mixer.sizes
    w, r = sizes.query_width, sizes.rope_width
    out = np.array(x, np.float64)
    for row in out:
        n = norm(row, block.norm.scale[...])
        q, k, v = (n @ weights(a) for a in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
        q, k, v = (a.reshape(len(row), -1, w) for a in (q, k, v))
        for a in (q, k):
            for t in range(len(row)):
                for i in range(r // 2):
                    angle = t * sizes.rope_theta ** (-2 * i / r)
                    pair = a[t, :, i] + 1j * a[t, :, i + r // 2]
                    pair = pair * np.exp(1j * angle)
                    a[t, :, i], a[t, :, i + r // 2] = pair.real, pair.imag
        y = np.zeros((len(row), q.shape[1], w))
        for i in range(len(row)):
            for a in range(q.shape[1]):
                g = a * k.shape[1] // q.shape[1]
                scores = k[: i + 1, g] @ q[i, a] * sizes.attention_scale
                alpha = np.exp(scores - scores.max())
                y[i, a] = alpha @ v[: i + 1, g] / alpha.sum()
        row += block.scale * y.reshape(len(row), -1) @ weights(mixer.o_proj)
        n = norm(row, ff.norm.scale[...])
        if ff.is_fused:
            gate, up = np.split(n @ weights(ff.gate_up), 2, axis=-1)
        else:
            gate, up = n @ weights(ff.gate_proj), n @ weights(ff.up_proj)
        row += block.scale * (gate / (1 + np.exp(-gate)) * up) @ weights(ff.down_proj)
    return out


@pytest.mark.parametrize("is_fused", [True, False])
def test_block_is_its_definition(is_fused):
    block = make_block(is_fused=is_fused, query_width=6, rope_width=4, rope_theta=50.0,
                       attention_scale=0.7)  # fmt: skip
    assert_close(block(stream()).x, definition(block, stream()), 2e-6)


def test_matrices_are_the_softmax_and_reduce_over_heads():
    block = make_block(rope_width=2)
    made = block.project(stream()).recurrence
    alpha = attention.hidden_attention(made)
    assert alpha.shape == (2, 4, 7, 7)
    values = jnp.repeat(made.values, 2, axis=2)  # heads of a group
    y = jnp.einsum("bhij,bjhp->bihp", alpha, values).reshape(2, 7, -1)
    assert_close(block.mixer.run(made)[0], y, 2e-6)
    chosen = attention.hidden_attention(made, rows=[2, -1], channels=[3])
    assert_close(chosen, alpha[:, 3:, jnp.array([2, 6])], 2e-6)
    for name, reduce in {"mean": np.mean, "max": np.max}.items():
        found = attention.reduced_attention(made, name)
        assert_close(found, reduce(np.asarray(alpha), axis=1), 2e-6)
        row = attention.reduced_attention(made, name, rows=[-1])
        assert_close(row, found[:, -1:], 2e-6)
    best = attention.top_channels(made, 1)
    total = np.abs(np.asarray(alpha)).sum((2, 3))
    np.testing.assert_allclose(total, 7, rtol=1e-5)  # rows add up to 1
    assert best.shape == (2, 1)


def test_nothing_can_be_folded_in():
    made = make_block().project(stream()).recurrence
    with pytest.raises(ValueError, match="softmax attention has nothing around it"):
        attention.hidden_attention(made, fold=("gate",))


def test_cached_passes_are_the_whole():
    block, x = make_block(rope_width=2), stream()
    whole = block(x)
    assert isinstance(whole.cache, AttentionCache)
    cache = block.mixer.empty_cache(2, jnp.float32)
    room = [(0, 0), (0, 7), (0, 0), (0, 0)]
    past = KeyValues(*(jnp.pad(a, room) for a in cache.past))
    cache = cache._replace(past=past)
    parts = []
    for part in jnp.split(x, [3, 4], axis=1):
        out = block(part, cache=cache)
        cache = out.cache
        parts.append(out.x)
    assert_close(jnp.concatenate(parts, axis=1), whole.x, 2e-6)
    assert cache.reach.length.tolist() == [7, 7]
    assert_close(cache.past.keys, whole.cache.past.keys, 2e-6)


def test_padding_and_packed_texts_do_not_see_each_other():
    block, x = make_block(rope_width=2), stream()
    alone = block(x[:, :4])
    padded = block(x, lengths=jnp.array([4, 7]))
    assert_close(padded.x[0, :4], alone.x[0], 2e-6)
    room = KeyValues(*(jnp.pad(a, [(0, 0), (0, 2), (0, 0), (0, 0)])
                       for a in padded.cache.past))  # fmt: skip
    after = block(x[:, 4:5], cache=padded.cache._replace(past=room))
    assert_close(after.x[0], block(x[:, :5]).x[0, 4:], 2e-6)
    segments = jnp.array([[0, 0, 0, 0, 1, 1, 1]] * 2)
    packed = block(x, segment_ids=segments)
    assert_close(packed.x[:, :4], alone.x, 2e-6)
    assert_close(packed.x[:, 4:], block(x[:, 4:]).x, 5e-6)
    assert packed.cache.reach.first.tolist() == [4, 4]


def test_long_texts_are_made_in_parts(monkeypatch):
    block, x = make_block(rope_width=2), stream()

    def grad(x):
        loss = quick_jit(jax.value_and_grad(lambda x: jnp.sum(jnp.sin(block(x).x))))
        return loss(x)

    value, slope = grad(x)
    monkeypatch.setattr(softmax, "QUERIES_AT_ONCE", 3)
    in_parts, other = grad(x)
    assert_close(in_parts, value, 2e-6)
    assert_close(other, slope, 5e-6)


@pytest.mark.parametrize("frozen", [UNIFIED, MAMBA_LRP])
def test_frozen_block_is_linear_and_token_vectors_add_up(frozen):
    block, x = make_block(rope_width=2), stream()
    out, slope = jax.jvp(lambda x: block.increment(x, frozen=frozen), (x,), (x,))
    assert_close(slope, out, 1e-5)
    assert_close(out, block(x).x - x, 5e-6)
    vectors, bias = attention.token_vectors(block, x)
    assert_close(jnp.sum(vectors, axis=2), out, 5e-6)
    assert_close(bias + 1, jnp.ones_like(bias), 2e-6)


WRONG = [
    ({"num_kv_heads": 3}, "num_kv_heads=3 must divide the 4 heads"),
    ({"num_query_heads": 3}, "num_query_heads=3 must divide the width 8"),
    ({"rope_width": 3}, "rope_width must be an even number up to query_width=2"),
    ({"rope_theta": math.nan}, "rope_theta must be a number above 0"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_sizes_that_do_not_fit_are_told(changes, message):
    with pytest.raises(ValueError, match=message):
        AttentionSizes(**SIZES | changes)
