"""Generations that go on, that stop, and that must not."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_models import random_tokens, remake, tiny_config, tiny_model

from jmamba import MambaLM, Sampling, generate
from jmamba.checkpoints import ByteTokenizer
from jmamba.generation import Decimation, prefill_decimated

MASK = jnp.array([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1]])
WARM = Sampling(temperature=0.9, top_k=15, repetition_penalty=1.3)


@pytest.fixture(scope="module")
def model():
    return tiny_model("falcon", seed=3)


@pytest.fixture(scope="module")
def prompts():
    return random_tokens(4, 5, seed=2)


@pytest.fixture(scope="module")
def long(model, prompts):
    return generate(
        model, prompts, attention_mask=MASK, max_new_tokens=8, stop_tokens=()
    )


# Going on -----------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [False, True])
def test_going_on_equals_one_long_generation(model, prompts, warm):
    options: dict = {"sampling": WARM, "key": 5} if warm else {}
    first = generate(model, prompts, attention_mask=MASK, max_new_tokens=8, **options)
    stops = (int(first.tokens[0, 1]), int(first.tokens[3, 5]))
    options["stop_tokens"] = stops
    whole = generate(model, prompts, attention_mask=MASK, max_new_tokens=9, **options)
    assert len({*whole.lengths.tolist()}) > 1  # rows stop at different times
    part = generate(model, prompts, attention_mask=MASK, max_new_tokens=3, **options)
    parts = [part]
    for _ in range(2):
        part = generate(model, None, cache=part, max_new_tokens=3, **options)
        parts.append(part)
    tokens = jnp.concatenate([p.tokens for p in parts], axis=1)
    np.testing.assert_array_equal(tokens, whole.tokens)
    np.testing.assert_array_equal(sum(p.lengths for p in parts), whole.lengths)
    same = part.cache._replace(tokens=whole.cache.tokens, lengths=whole.cache.lengths)
    same = same._replace(step=whole.cache.step)  # which ends with the longest row
    chex.assert_trees_all_close(same, whole.cache, rtol=1e-5, atol=1e-6)


def test_going_on_from_a_call_of_the_model(model, prompts, long):
    read = model(prompts, attention_mask=MASK)
    new = generate(model, None, cache=read, max_new_tokens=8, stop_tokens=())
    np.testing.assert_array_equal(new.tokens, long.tokens)


def test_going_on_from_a_decimated_prompt(model):
    prompt = random_tokens(1, 12, seed=4)
    keep_all = Decimation(layers=(1,), base_length=12)
    read = prefill_decimated(model, prompt, keep_all)
    new = generate(model, None, cache=read, max_new_tokens=3)
    expected = generate(model, prompt, max_new_tokens=3).tokens
    np.testing.assert_array_equal(new.tokens, expected)


def test_going_on_within_jit(model, prompts, long):
    graphdef, state = nnx.split(model)

    @jax.jit
    def run(state, cache):
        model = nnx.merge(graphdef, state)
        return generate(model, cache=cache, max_new_tokens=4, stop_tokens=()).tokens

    first = generate(
        model, prompts, attention_mask=MASK, max_new_tokens=4, stop_tokens=()
    )
    np.testing.assert_array_equal(run(state, first), long.tokens[:, 4:])


def test_dialogue_goes_on_with_the_penalty_of_earlier_tokens(model, prompts):
    never = Sampling(repetition_penalty=1e6)
    options: dict = {"sampling": never, "stop_tokens": ()}
    first = generate(model, prompts[3:], max_new_tokens=3, **options)
    more = jnp.array([[7, 8]])
    second = generate(model, more, cache=first, max_new_tokens=4, **options)
    text = jnp.concatenate([prompts[3:], first.tokens, more], axis=1)
    whole = generate(model, text, max_new_tokens=4, **options)
    np.testing.assert_array_equal(second.tokens, whole.tokens)


@pytest.mark.parametrize("last", [1, 3])
@pytest.mark.parametrize("whole", [True, False], ids=["generated", "its cache"])
def test_tokens_that_were_read_are_refused(model, prompts, last, whole):
    new = generate(model, prompts, max_new_tokens=3, stop_tokens=())
    cache = new if whole else new.cache
    again = new.tokens[:, -last:]
    message = r"would be there twice\. .*generate\(model, None, cache=...\).*\.layers"
    with pytest.raises(ValueError, match=message):
        generate(model, again, cache=cache, max_new_tokens=2)
    with pytest.raises(ValueError, match=message):
        model(again, cache=cache)
    assert model(again, cache=new.cache.layers).logits.shape == (4, last, 24)
    other = (again + 1) % 24
    assert model(other, cache=cache).logits.shape == (4, last, 24)


def test_going_on_messages(model, prompts):
    with pytest.raises(ValueError, match="no tokens to continue. Give a prompt"):
        generate(model, None, max_new_tokens=1)
    layers = model(prompts).cache
    with pytest.raises(ValueError, match=r"cache=model\(tokens\), ...\)"):
        generate(model, None, cache=layers, max_new_tokens=1)
    with pytest.raises(ValueError, match="attention_mask says .* leave it out"):
        generate(model, cache=model(prompts), attention_mask=MASK, max_new_tokens=1)


# Stop strings -------------------------------------------------------------------------


def spelling(seed: int = 0) -> MambaLM:
    """Return a model of bytes that says something."""
    config = tiny_config("falcon", vocab_size=256)
    rngs = nnx.Rngs(seed)
    return MambaLM(config, rngs=rngs)


def test_stop_strings_end_rows_where_their_text_comes():
    model, tokenizer = spelling(), ByteTokenizer()
    prompts = jnp.array([list(b"hello"), list(b"world")])
    free = generate(model, prompts, max_new_tokens=12).tokens
    texts = [bytes(np.asarray(row, np.uint8)) for row in free]
    ends = texts[0][4:6].decode("latin-1")
    latin = _Latin()
    new = generate(
        model, prompts, max_new_tokens=12, stop_strings=[ends, "never seen"],
        tokenizer=latin, pad_token=-1,
    )  # fmt: skip
    for row, length, text in zip(new.tokens, new.lengths, texts, strict=True):
        at = text.find(ends.encode("latin-1"))
        wanted = text[: at + 2] if at >= 0 else text
        assert row[:length].tolist() == list(wanted)
        assert (row[length:] == -1).all()
    assert int(new.lengths[0]) < 12
    on = generate(
        model, None, cache=new, max_new_tokens=3, stop_strings=ends, tokenizer=latin
    )
    assert int(on.lengths[0]) == 0  # what has stopped stays so
    assert tokenizer.eos_ids == ()


class _Latin:
    """Decodes each byte as one character."""

    def decode(self, ids):
        return bytes(ids).decode("latin-1")


def test_stop_string_may_begin_in_an_earlier_part():
    model = spelling()
    prompt = jnp.array([list(b"hello")])
    free = bytes(np.asarray(generate(model, prompt, max_new_tokens=6).tokens[0], "u1"))
    options = {"stop_strings": free[1:4].decode("latin-1"), "tokenizer": _Latin()}
    first = generate(model, prompt, max_new_tokens=2, **options)
    second = generate(model, None, cache=first, max_new_tokens=4, **options)
    whole = generate(model, prompt, max_new_tokens=6, **options)
    assert int(whole.lengths[0]) == int(first.lengths[0] + second.lengths[0]) <= 4


def test_stop_strings_messages(model, prompts):
    with pytest.raises(ValueError, match="need a tokenizer .*load_tokenizer"):
        generate(model, prompts, max_new_tokens=1, stop_strings=["."])
    wrongs: list[Any] = [[""], [3]]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="must be texts of at least one char"):
            generate(
                model, prompts, max_new_tokens=1, stop_strings=wrong, tokenizer=_Latin()
            )


# Padding of the vocabulary ------------------------------------------------------------


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=3.0)])
def test_padded_rows_of_the_vocabulary_are_never_drawn(model, prompts, sampling):
    options: dict = {"sampling": sampling, "key": 0, "max_new_tokens": 20}
    free = generate(model, prompts, **options).tokens
    used = int(free.max())  # so that the largest token drawn is padding
    padded = remake(model, tiny_config("falcon", unpadded_vocab_size=used))
    drawn = generate(padded, prompts, **options).tokens
    assert int(free.max()) == used > int(drawn.max())
    logits = padded(prompts).logits
    chex.assert_trees_all_equal(logits, model(prompts).logits)  # these are all there
    with pytest.raises(ValueError, match=f"Give top_k={used} or less"):
        generate(
            padded, prompts, max_new_tokens=1, key=0, sampling=Sampling(1.0, top_k=24)
        )


# Numbers that are not finite ----------------------------------------------------------


def overflowing(layer: int, dtype="float16"):
    """Return a model one layer of which puts out more than float16 holds."""
    model = remake(tiny_model("falcon", num_layers=4), dtype=jnp.dtype(dtype))
    kernel = model.layers.mixer.out_proj.kernel
    kernel[...] = kernel[...].at[layer].multiply(3e5)
    return model


@pytest.mark.parametrize("layer", [0, 2])
def test_overflow_names_dtype_and_layer(layer, prompts):
    message = (
        rf"rows \[.*\] are not finite after 0 new.*float16.* in layer {layer} of 4"
    )
    with pytest.raises(FloatingPointError, match=message + ".*bfloat16"):
        generate(overflowing(layer), prompts, attention_mask=MASK, max_new_tokens=3)
    new = generate(overflowing(layer, "bfloat16"), prompts, max_new_tokens=3)
    assert new.tokens.shape == (4, 3)


def test_overflow_in_the_middle_of_a_generation(model, prompts):
    tokens = generate(model, prompts[:1], max_new_tokens=4, stop_tokens=()).tokens[0]
    broken = remake(model)
    fatal = tokens[2]
    assert fatal not in prompts[0] and fatal not in tokens[:2]
    broken.embedding[...] = broken.embedding[...].at[fatal].set(jnp.nan)
    message = "after 3 new tokens.*float32.*what the first layer is given: the embedd"
    with pytest.raises(FloatingPointError, match=message):
        generate(broken, prompts[:1], max_new_tokens=6, stop_tokens=())
    # where no token is drawn from them, numbers that are not finite do no harm
    whole = generate(broken, prompts[:1], max_new_tokens=3, stop_tokens=())
    np.testing.assert_array_equal(whole.tokens[0], tokens[:3])
    with pytest.raises(FloatingPointError, match="after 0 new tokens.*or the cache"):
        generate(broken, None, cache=whole, max_new_tokens=1, stop_tokens=())


def test_overflow_within_jit_draws_nothing(prompts):
    model = overflowing(1)
    run = nnx.jit(lambda model, tokens: generate(model, tokens, max_new_tokens=3))
    new = run(model, prompts)
    assert new.lengths.tolist() == [0] * 4 and not np.isfinite(new.cache.logits).any()
