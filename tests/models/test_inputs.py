"""What models take for tokens: arrays of any library, embeddings; and what they say."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from helpers import assert_close
from tiny_models import random_tokens, remake, skeleton, tiny_config, tiny_model

import jmamba
from jmamba import Sampling, generate, trace
from jmamba.attention import (
    gradient_x_input,
    integrated_gradients,
    mamba_lrp,
    measure_layers,
    smooth_grad,
)
from jmamba.dynamics import flatten_state, report_regimes, state_map
from jmamba.generation import Decimation, prefill_decimated

LISTS = [[3, 1, 4], [1, 5, 9]]
MASK = [[0, 1, 1], [1, 1, 1]]
FORMS = {
    "lists": LISTS,
    "tuples": tuple(map(tuple, LISTS)),
    "int64": np.array(LISTS, np.int64),
    "uint8": np.array(LISTS, np.uint8),
    "torch": torch.tensor(LISTS),
    "rows": [np.array(row) for row in LISTS],
    "jax": jnp.array(LISTS, jnp.int16),
}
CALLS = {
    "model": lambda model, x: model(x).logits,
    "generate": lambda model, x: generate(model, x, max_new_tokens=2).tokens,
    "trace": lambda model, x: trace(model, x).logits,
    "mamba_lrp": mamba_lrp,
    "gradient_x_input": gradient_x_input,
    "integrated_gradients": lambda model, x: integrated_gradients(
        model, x, baseline=x, steps=2
    ),
    "measure_layers": measure_layers,
    "report_regimes": lambda model, x: report_regimes(model, x).horizon,
    "prefill_decimated": lambda model, x: (
        prefill_decimated(
            model, x, Decimation(layers=(1,), base_length=2, min_length=1)
        ).logits
    ),
    "state_map": lambda model, x: state_map(model, x[0])(
        flatten_state(model.empty_cache(1))
    ),
}


@pytest.fixture(scope="module")
def model():
    return tiny_model("falcon")


@pytest.mark.parametrize("call", CALLS)
def test_tokens_of_any_library(call, model):
    expected = CALLS[call](model, jnp.array(LISTS))
    forms = FORMS if call == "model" else ("lists", "torch")
    for form in forms:
        found = CALLS[call](model, FORMS[form])
        chex.assert_trees_all_equal(found, expected)


def test_masks_and_segments_of_any_library(model):
    expected = model(
        jnp.array(LISTS), attention_mask=jnp.array(MASK), segment_ids=jnp.array(MASK)
    )
    for make in (list, np.array, torch.tensor):
        found = model(LISTS, attention_mask=make(MASK), segment_ids=make(MASK))
        chex.assert_trees_all_equal(found, expected)
    as_floats = generate(
        model, LISTS, attention_mask=np.array(MASK, "f4"), max_new_tokens=1
    )
    assert as_floats.tokens.shape == (2, 1)


@pytest.mark.parametrize("masked", [False, True])
def test_embeddings_in_place_of_tokens(model, masked):
    tokens = random_tokens(4, 3)
    x = model.embedding[...][tokens]
    options: dict = {"attention_mask": MASK * 2} if masked else {}
    chex.assert_trees_all_equal(
        model(inputs_embeds=x, **options), model(tokens, **options)
    )
    chex.assert_trees_all_equal(
        generate(
            model, inputs_embeds=np.asarray(x), max_new_tokens=3, **options
        ).tokens,
        generate(model, tokens, max_new_tokens=3, **options).tokens,
    )


def test_embeddings_are_differentiated_and_vmapped(model):
    tokens = random_tokens(2, 3)
    x = model.embedding[...][tokens]
    grad = jax.grad(lambda x: model(None, inputs_embeds=x).logits[:, -1].max(-1).sum())
    expected = gradient_x_input(model, tokens)
    assert_close(jnp.sum(grad(x) * x, axis=-1), expected, 1e-5)
    each = jax.vmap(lambda x: model(inputs_embeds=x[None]).logits[0])(x)
    assert_close(each, model(tokens).logits, 1e-5)


def test_everything_still_traces(model):
    tokens, mask = jnp.array(LISTS), jnp.array(MASK)
    graphdef, state = nnx.split(model)
    cache = model(tokens).cache

    @jax.jit
    def run(state, tokens, mask, cache):
        model = nnx.merge(graphdef, state)
        out = model(tokens, attention_mask=mask, segment_ids=mask, cache=cache)
        new = generate(model, [[tokens[0, 0], 2]], max_new_tokens=2)
        return out, model([[tokens[0, 0], 2]]), new

    out, of_list, new = run(state, tokens, mask, cache)
    expected = model(tokens, attention_mask=mask, segment_ids=mask, cache=cache)
    assert_close(out, expected, 1e-5)
    assert_close(of_list, model([[3, 2]]), 1e-5)
    chex.assert_trees_all_equal(
        new.tokens, generate(model, [[3, 2]], max_new_tokens=2).tokens
    )
    rows = jax.vmap(lambda row, c: model(row[None], cache=c).logits[0], (0, 1))
    alone = jax.tree.map(lambda x: x[:, :, None], cache)
    assert_close(rows(tokens, alone), model(tokens, cache=cache).logits, 1e-5)
    several = jax.vmap(lambda row: generate(model, row[None], max_new_tokens=2).tokens)
    chex.assert_trees_all_equal(
        several(tokens)[:, 0], generate(model, tokens, max_new_tokens=2).tokens
    )


# Keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", [3, np.int64(3), jax.random.key(3), jax.random.PRNGKey(3), jnp.array(3)]
)
def test_keys_may_be_seeds(key, model):
    options: dict = {"sampling": Sampling(temperature=2.0), "max_new_tokens": 6}
    expected = generate(model, LISTS, key=jax.random.key(3), **options).tokens
    chex.assert_trees_all_equal(
        generate(model, LISTS, key=key, **options).tokens, expected
    )
    assert smooth_grad(model, LISTS, key=key, samples=2).shape == (2, 3)


@pytest.mark.parametrize("key", ["0", 0.5, True, jax.random.split(jax.random.key(0))])
def test_keys_that_are_none(key, model):
    with pytest.raises(TypeError, match=r"generate: key must be one key .* or a seed"):
        generate(model, LISTS, key=key, sampling=Sampling(1.0), max_new_tokens=1)


# Messages -----------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["model", "generate", "trace", "mamba_lrp"])
@pytest.mark.parametrize("text", ["Hello", ["Hello", "you"], b"Hello"])
def test_texts_are_told_to_be_tokenized(call, text, model):
    with pytest.raises(TypeError, match=r"Tokenize first: .*load_tokenizer\(.*encode"):
        CALLS[call](model, text)


def test_tokens_messages(model):
    with pytest.raises(TypeError, match=r"keys 'input_ids'; .*encoding\[.input_ids.\]"):
        model({"input_ids": LISTS})
    with pytest.raises(
        ValueError, match=r"lengths \[2, 1\]\. Fill .*\[1, 1\], \[1, 0\]"
    ):
        model([[1, 2], [3]])
    with pytest.raises(TypeError, match="are of type object, which is no array"):
        model(object())
    with pytest.raises(ValueError, match=r"integers of shape \(batch, length\)"):
        model([1, 2])
    with pytest.raises(ValueError, match="tokens are empty"):
        model([])
    with pytest.raises(ValueError, match=r"must lie in \[0, 24\), .* 4294967299"):
        model(np.array([[2**32 + 3]]))
    with pytest.raises(ValueError, match="holds -inf to 0.0; give 1 where a token is"):
        model(LISTS, attention_mask=np.array([[0, 0, 0], [0, 0, -np.inf]]))
    for wrong in ([[0, 1]], [[0.5, 1, 1]] * 2):
        with pytest.raises(
            ValueError, match="segment_ids are .* one integer per token"
        ):
            model(LISTS, segment_ids=wrong)
    with pytest.raises(ValueError, match=r"Give tokens or inputs_embeds, one of them"):
        model()
    with pytest.raises(ValueError, match=r"shape \(batch, length, 8\), but got int"):
        model(inputs_embeds=LISTS)


def test_cache_messages(model):
    for call in (
        model,
        lambda *x, **y: generate(*((model, *x)), max_new_tokens=1, **y),
    ):
        with pytest.raises(ValueError, match="holds 3 rows, but tokens have 2"):
            call(LISTS, cache=model.empty_cache(3))
        deeper = skeleton(tiny_config("falcon", num_layers=3)).empty_cache(2)
        with pytest.raises(ValueError, match=r"of another model: .* of 2 layers needs"):
            call(LISTS, cache=deeper)
        with pytest.raises(TypeError, match=r"cache is a tuple, .*cache=out.cache\)"):
            call(LISTS, cache=(1, 2))
    out = model(LISTS)  # the whole output is as good as the cache in it
    chex.assert_trees_all_equal(model(LISTS, cache=out), model(LISTS, cache=out.cache))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_beams": 4}, "no beam search: draw several continuations"),
        ({"early_stopping": True, "length_penalty": 1.0}, "no beam search"),
        ({"do_sample": True}, r"sampling=Sampling\(temperature=1.0\)"),
        ({"max_length": 9}, "give max_new_tokens"),
        ({"eos_token_id": 3, "nonsense": 1}, "give stop_tokens=.* and no nonsense"),
    ],
)
def test_arguments_of_others_are_told_ours(options, match, model):
    with pytest.raises(TypeError, match=f"generate takes no .*{match}"):
        generate(model, LISTS, max_new_tokens=1, **options)


def test_sampling_that_is_none(model):
    with pytest.raises(TypeError, match="must be a Sampling, but is 0.8. Give for"):
        generate(model, LISTS, max_new_tokens=1, sampling=0.8)  # type: ignore[arg-type]


# The output projection ----------------------------------------------------------------


def test_output_projection_is_untied_by_assigning_it(tmp_path):
    model = remake(tiny_model())
    assert model.lm_head is None and model.config.tie_embeddings
    expected = model(LISTS).logits
    model.lm_head = nnx.Param(2 * model.embedding[...].T)
    assert not model.config.tie_embeddings
    assert_close(model(LISTS).logits, 2 * expected, 1e-6)
    grads = nnx.grad(lambda model: model(LISTS).logits.sum())(model)
    assert bool(jnp.any(grads.lm_head[...] != 0))
    model.save_pretrained(tmp_path / "untied")
    back = jmamba.MambaLM.from_pretrained(tmp_path / "untied")
    chex.assert_trees_all_equal(back(LISTS), model(LISTS))
    assert back.config == model.config
    free = jmamba.MambaLM.from_pretrained(tmp_path / "untied", tie_embeddings=False)
    chex.assert_trees_all_equal(free(LISTS), model(LISTS))
    with pytest.raises(ValueError, match="tie_embeddings=True would drop"):
        jmamba.MambaLM.from_pretrained(tmp_path / "untied", tie_embeddings=True)
    model.lm_head = None
    assert model.config.tie_embeddings
    chex.assert_trees_all_equal(model(LISTS).logits, expected)


def test_output_projection_is_untied_by_a_choice(tmp_path):
    model = remake(tiny_model())
    model.save_pretrained(tmp_path / "tied")
    free = jmamba.MambaLM.from_pretrained(tmp_path / "tied", tie_embeddings=False)
    assert free.lm_head is not None
    chex.assert_trees_all_equal(free.lm_head[...], model.embedding[...].T)
    assert_close(free(LISTS).logits, model(LISTS).logits, 1e-6)
    copy = remake(model)
    copy.config = dataclasses.replace(copy.config, tie_embeddings=False)
    chex.assert_trees_all_equal(nnx.state(copy), nnx.state(free))
    copy.config = dataclasses.replace(copy.config, tie_embeddings=True)
    assert copy.lm_head is None
