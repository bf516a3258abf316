"""Generation against a loop written out, step by step."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close
from tiny_models import (
    VOCAB,
    count_traces,
    random_tokens,
    remake,
    tiny_config,
    tiny_model,
)

from jmamba import Sampling, generate
from jmamba.generation import decoding

NEW = 6
MASK = jnp.array([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1]])
WARM = Sampling(
    temperature=0.9, top_k=15, top_p=0.95, min_p=0.01, repetition_penalty=1.2
)


def generate_slowly(model, prompt, new: int) -> list[int]:
    """Run the whole model over the whole text for every token, without a cache."""
    text = np.zeros((1, 11), np.int32)  # one shape: what comes later has no effect
    text[0, : len(prompt)] = prompt
    for t in range(len(prompt), len(prompt) + new):
        text[0, t] = jnp.argmax(model(jnp.asarray(text)).logits[0, t - 1])
    return text[0, len(prompt) : len(prompt) + new].tolist()


@pytest.fixture(scope="module")
def model():
    return tiny_model("falcon", seed=3)  # untied: a token does not call for itself


@pytest.fixture(scope="module")
def prompts():
    return random_tokens(4, 5, seed=2)


@pytest.fixture(scope="module")
def alone(model, prompts):
    """What each padded row should get, from the loop written out."""
    return [
        generate_slowly(model, row[np.flatnonzero(mask)], NEW)
        for row, mask in zip(prompts, MASK, strict=True)
    ]


def test_generate_equals_slow_loop_in_a_padded_batch(model, prompts, alone):
    new = generate(model, prompts, attention_mask=MASK, max_new_tokens=NEW)
    assert len({*map(tuple, alone)}) == 4  # rows differ
    np.testing.assert_array_equal(new.tokens, alone)
    assert new.lengths.tolist() == [NEW] * 4
    chex.assert_type(new.tokens, jnp.int32)


def test_generate_stops_each_row_at_its_stop_token(model, prompts, alone):
    stops = (alone[0][2], alone[3][0])
    cut = [next((i for i, t in enumerate(row) if t in stops), NEW - 1) for row in alone]
    assert len({*cut}) > 1
    new = generate(
        model, prompts, attention_mask=MASK, max_new_tokens=NEW, stop_tokens=stops,
        pad_token=-7,
    )  # fmt: skip
    assert new.lengths.tolist() == [i + 1 for i in cut]
    for tokens, row, i in zip(new.tokens.tolist(), alone, cut, strict=True):
        assert tokens == row[: i + 1] + [-7] * (NEW - 1 - i)


def test_generate_stops_at_end_of_text_by_default(model, prompts, alone):
    ending = remake(model, tiny_config("falcon", eos_token_id=alone[3][0]))
    assert generate(ending, prompts[3:], max_new_tokens=3).lengths.tolist() == [1]
    on = generate(ending, prompts[3:], max_new_tokens=3, stop_tokens=())
    assert on.lengths.tolist() == [3]


def test_generate_cache_holds_what_each_row_holds(model, prompts, alone):
    new = generate(
        model, prompts, attention_mask=MASK, max_new_tokens=NEW,
        stop_tokens=(alone[0][2], alone[3][0]),
    )  # fmt: skip
    for i, length in enumerate(new.lengths):
        text = [*prompts[i, np.flatnonzero(MASK[i])], *new.tokens[i, : int(length)]]
        padded = jnp.array([text + [0] * (11 - len(text))])
        mask = jnp.arange(11)[None] < len(text)
        cache = model(padded, attention_mask=mask).cache
        row = jax.tree.map(lambda x, i=i: x[:, i : i + 1], new.cache.layers)
        assert_close(row, cache, 1e-5)


def test_generate_continues_from_its_cache(model, prompts):
    first = generate(model, prompts, max_new_tokens=3)
    more = random_tokens(4, 2, seed=9)
    second = generate(model, more, max_new_tokens=4, cache=first.cache)
    text = jnp.concatenate([prompts, first.tokens, more], axis=1)
    whole = generate(model, text, max_new_tokens=4)
    np.testing.assert_array_equal(second.tokens, whole.tokens)


def test_generate_penalizes_only_what_a_row_holds(model, prompts):
    never = Sampling(repetition_penalty=1e6)  # so strong that nothing comes again
    options = {"max_new_tokens": VOCAB - 5, "sampling": never}
    new = generate(model, prompts, attention_mask=MASK, **options).tokens
    for i in range(3):
        own = prompts[i, np.flatnonzero(MASK[i])]
        assert (
            new[i].tolist() == generate(model, own[None], **options).tokens[0].tolist()
        )
        assert {*own.tolist()}.isdisjoint(new[i, :3].tolist())


def test_generate_draws_by_key(model, prompts):
    def run(seed, tokens=prompts, mask=MASK):
        return generate(
            model, tokens, attention_mask=mask, max_new_tokens=NEW, sampling=WARM,
            key=jax.random.key(seed),
        ).tokens.tolist()  # fmt: skip

    assert run(0) == run(0) != run(1)
    assert run(0, prompts[:1], MASK[:1]) == run(0)[:1]  # more rows change nothing
    assert (
        len(
            {
                tuple(row)
                for row in run(0, prompts[jnp.zeros(4, int)], MASK[jnp.zeros(4, int)])
            }
        )
        > 1
    )


def test_generate_at_low_temperature_is_greedy(model, prompts, alone):
    cold = generate(
        model, prompts, attention_mask=MASK, max_new_tokens=NEW,
        sampling=Sampling(temperature=1e-6), key=jax.random.key(0),
    )  # fmt: skip
    np.testing.assert_array_equal(cold.tokens, alone)


def test_generate_compiles_once_for_all_values(model, prompts, monkeypatch):
    traces = count_traces(monkeypatch, decoding, "_start")
    for seed, settings in enumerate([(0.7, 5, 0.9, 1.1), (1.3, 9, 0.5, 1.3)]):
        temperature, top_k, top_p, penalty = settings
        sampling = Sampling(temperature, top_k, top_p, repetition_penalty=penalty)
        generate(
            model, (prompts + seed) % VOCAB, max_new_tokens=4, sampling=sampling,
            key=jax.random.key(seed), stop_tokens=[seed], pad_token=seed,
            callback=lambda *step: None,
        )  # fmt: skip
    assert len(traces) == 1


# Streaming ----------------------------------------------------------------------------


def test_generate_streams_without_changing_the_result(model, prompts, alone):
    steps = []
    options = {"attention_mask": MASK, "max_new_tokens": NEW, "pad_token": -1}
    options |= {"sampling": WARM, "key": jax.random.key(3), "stop_tokens": alone[1][:1]}
    silent = generate(model, prompts, **options)
    streamed = generate(model, prompts, **options, callback=lambda *s: steps.append(s))
    chex.assert_trees_all_equal(streamed, silent)
    tokens, running = (np.stack(x, axis=1) for x in zip(*steps, strict=True))
    count = int(silent.lengths.max())
    np.testing.assert_array_equal(tokens, silent.tokens[:, :count])
    np.testing.assert_array_equal(running.sum(1), silent.lengths)
    assert (tokens[~running] == -1).all()


def test_generate_ends_when_all_rows_have_stopped(model, prompts, alone):
    steps = []
    generate(
        model, prompts, attention_mask=MASK, max_new_tokens=50,
        stop_tokens=[row[0] for row in alone],
        callback=lambda *step: steps.append(step),
    )  # fmt: skip
    assert len(steps) == 1


def test_generate_raises_what_the_callback_raises(model, prompts, alone):
    seen = []

    def full(tokens, running):
        seen.append(tokens)
        if len(seen) == 2:
            raise BrokenPipeError("nobody listens")

    unused = sorted({*range(VOCAB)}.difference(*alone))[:4]
    with pytest.raises(BrokenPipeError, match="nobody listens"):
        generate(
            model, prompts, attention_mask=MASK, max_new_tokens=50, callback=full,
            stop_tokens=unused,
        )  # fmt: skip
    assert len(seen) == 2


def test_generate_within_jit(model, prompts, alone):
    graphdef, state = nnx.split(model)

    @jax.jit
    def run(state, tokens, mask):
        model = nnx.merge(graphdef, state)
        return generate(model, tokens, attention_mask=mask, max_new_tokens=NEW).tokens

    np.testing.assert_array_equal(run(state, prompts, MASK), alone)


# Messages -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_new_tokens": 0}, r"at least 1, but is 0\. For .* model\(tokens\)"),
        ({"max_new_tokens": 2.0}, "max_new_tokens must be an integer"),
        ({"tokens": jnp.zeros((1, 0), jnp.int32)}, "tokens are empty"),
        ({"tokens": jnp.array([3])}, r"shape \(batch, length\).* jnp.array\(\[ids\]\)"),
        ({"tokens": jnp.array([[VOCAB]])}, r"must lie in \[0, 24\), but range from 24"),
        ({"attention_mask": jnp.array([[0, 0], [1, 0], [0, 0]])}, r"rows \[0, 2\] of"),
        ({"attention_mask": jnp.ones((3, 1))}, r"attention_mask has shape \(3, 1\)"),
        ({"sampling": Sampling(temperature=1.0)}, r"Add key=jax.random.key\(0\)"),
        ({"sampling": Sampling(1.0, top_k=25)}, "Give top_k=24 or less, or None"),
        ({"stop_tokens": [3, 24]}, r"token ids in \[0, 24\), but are \[3, 24\]"),
        ({"stop_tokens": "end"}, "but are 'end'. For a text give stop_strings"),
        ({"cache": tiny_model().empty_cache(2)}, "holds 2 rows, but tokens have 3"),
    ],
)  # fmt: skip
def test_generate_messages(options, match):
    arguments = {"tokens": random_tokens(3, 2), "max_new_tokens": 2} | options
    with pytest.raises(ValueError, match=match):
        generate(tiny_model(), **arguments)


def test_generate_callback_within_jit_message():
    @jax.jit
    def run(tokens):
        return generate(tiny_model(), tokens, max_new_tokens=1, callback=print).tokens

    with pytest.raises(ValueError, match="callback cannot be used inside jit"):
        run(random_tokens(1, 2))
