"""Guessed tokens are checked: what comes is what greedy decoding draws."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_models import (
    random_hybrid_model,
    random_mamba2_model,
    random_parallel_model,
    random_text_model,
)

from jmamba import generate
from jmamba.generation import Lookup, Sampling
from jmamba.generation.decoding import _generate
from jmamba.generation.lookup import guess_tokens
from jmamba.generation.request import make_request

LOOKUP = Lookup(num_tokens=2, min_ngram=1)
PROMPTS = np.array([[3, 5, 7, 3, 5, 7, 3, 5], [0, 9, 2, 9, 2, 9, 0, 0], [0] * 7 + [4]])
MASK = np.array([[1] * 8, [0, 1, 1, 1, 1, 1, 0, 0], [0] * 7 + [1]])
MODELS = {
    "mamba": random_text_model,
    "mamba2": random_mamba2_model,
    "hybrid": lambda: random_hybrid_model(rope_width=4),
    "parallel": random_parallel_model,
}


def assert_same(found, wanted):
    assert found.lengths.tolist() == wanted.lengths.tolist()
    assert found.tokens.tolist() == wanted.tokens.tolist()
    for ours, theirs in zip(
        jax.tree.leaves(found.cache), jax.tree.leaves(wanted.cache), strict=True
    ):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


def without_past(generated):
    """Return what was generated, without keys of places that hold no token."""
    return generated._replace(
        cache=jax.tree.map_with_path(
            lambda keys, x: x[:0] if keys[-1].name in ("keys", "values") else x,
            generated.cache,
        )
    )


@pytest.mark.parametrize("kind", MODELS)
def test_lookup_draws_what_greedy_decoding_draws(kind):
    model: Any = MODELS[kind]()
    options: dict[str, Any] = {"max_new_tokens": 12, "attention_mask": MASK}
    plain = generate(model, PROMPTS, stop_tokens=(), **options)
    stop = int(plain.tokens[0, 7])  # a row ends in the middle of what is checked
    options |= {"stop_tokens": (stop,), "pad_token": -1}
    plain = generate(model, PROMPTS, **options)
    assert plain.lengths[0] < 12
    guessed = generate(model, PROMPTS, lookup=LOOKUP, **options)
    assert_same(*map(without_past, (guessed, plain)))
    if kind in ("hybrid", "mamba"):  # what it leaves is gone on from
        more = [
            generate(model, None, cache=one, max_new_tokens=3, stop_tokens=())
            for one in (guessed, plain)
        ]
        assert more[0].tokens.tolist() == more[1].tokens.tolist()


def test_lookup_runs_the_model_less_often():
    model = random_text_model()
    request = make_request(
        model, PROMPTS[:1], inputs_embeds=None, attention_mask=None, max_new_tokens=40,
        sampling=Sampling(), stop_tokens=(), key=None, pad_token=0, cache=None,
        is_heard=False,
    )  # fmt: skip
    found, _, passes = _generate(
        *nnx.split(model), request, max_new_tokens=40, lookup=LOOKUP
    )
    tokens = found.tokens[0].tolist()
    assert tokens[-8:] in (tokens[-8 - n : -n] for n in range(1, 9))  # it repeats
    assert passes <= 24  # of 40 alone; at best three tokens come of two passes


def test_lookup_tells_a_callback_and_stops_at_texts():
    model, heard = random_text_model(), []
    letters = "abcdefghijklmnopqrstuvwx"

    class Letters:
        eos_ids = ()

        def decode(self, ids):
            return "".join(letters[i] for i in ids)

    plain = generate(model, PROMPTS[:2], max_new_tokens=12, stop_tokens=())
    end = Letters().decode(plain.tokens[0, 5:7].tolist())
    options: dict[str, Any] = {"max_new_tokens": 12, "stop_tokens": ()}
    stops: dict[str, Any] = {"stop_strings": end, "tokenizer": Letters()}

    def hear(tokens, running):
        heard.append((tokens.tolist(), running.tolist()))

    wanted = generate(model, PROMPTS[:2], **options, **stops)
    found = generate(
        model, PROMPTS[:2], callback=hear, lookup=LOOKUP, **options, **stops
    )
    assert_same(found, wanted)
    for row in range(2):
        told = [tokens[row] for tokens, running in heard if running[row]]
        assert told == found.tokens[row, : int(found.lengths[row])].tolist()


def test_guesses_follow_the_longest_and_latest_match():
    history = jnp.array(
        [
            [1, 2, 3, 9, 2, 3, 8, 1, 2, 3, 0, 0],  # 1 2 3 wins over the later 2 3
            [2, 3, 7, 2, 3, 8, 2, 3, 0, 0, 0, 0],  # of two alike the last
            [5, 6, 5, 6, 5, 6, 0, 0, 0, 0, 0, 0],  # a period goes on
            [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0],  # nothing
        ]
    )
    filled = jnp.array([10, 8, 6, 10])
    tokens, found = guess_tokens(history, filled, Lookup(num_tokens=3))
    assert found.tolist() == [True, True, True, False]
    assert tokens[:3].tolist() == [[9, 2, 3], [8, 2, 3], [5, 6, 5]]


def test_lookup_mistakes_are_told():
    model = random_text_model()
    with pytest.raises(ValueError, match="temperature above 0 draws others"):
        generate(
            model, PROMPTS, max_new_tokens=2, lookup=Lookup(), key=0,
            sampling=Sampling(temperature=1.0),
        )  # fmt: skip
    wrong: Any = 4
    with pytest.raises(TypeError, match=r"lookup must be a Lookup, but is 4"):
        generate(model, PROMPTS, max_new_tokens=2, lookup=wrong)
    with pytest.raises(ValueError, match="whole numbers from 1 on"):
        Lookup(num_tokens=0)
    with pytest.raises(ValueError, match="min_ngram is above max_ngram"):
        Lookup(min_ngram=9)
