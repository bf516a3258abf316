"""What can be asked: several targets, one and not the other, texts that go on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from random_models import random_text_model, random_tokens

import jmamba
from jmamba.attention import METHODS, Continuation, Contrast, MeanOf, explain
from jmamba.interventions import (
    attribution_patching,
    capture,
    logit_shares,
    replace,
    run,
    sweep_patches,
)

ALONE = ("raw_attention", "attention_rollout", "token_norms", "alti")
"""Methods to which the target is nothing."""

LINEAR = ("alti_logit", "mamba_lrp", "gradient_x_input")
"""Methods whose relevance for a sum of logits is the sum of relevances."""

LONGER = [3, 1, 2]

model = random_text_model(layers=2)
tokens = random_tokens()
long_text = jnp.concatenate(
    [tokens, jnp.broadcast_to(jnp.array(LONGER[:-1]), (len(tokens), 2))], axis=1
)


def some_of(methods):
    """Return methods, of which those that others stand for are exhaustive."""
    quick = (*ALONE[:1], "mamba_attribution", *LINEAR[:1])
    slow = pytest.mark.exhaustive
    return [pytest.param(one, marks=() if one in quick else slow) for one in methods]


@pytest.mark.parametrize("method", some_of(LINEAR))
def test_several_targets_are_the_mean_of_their_relevances(method):
    found = explain(model, tokens, method, target=MeanOf([3, 1]), instead_of=2)
    each = [explain(model, tokens, method, target=i) for i in (3, 1, 2)]
    assert_close(found, (each[0] + each[1]) / 2 - each[2], 2e-5)
    rows = MeanOf(np.array([[3, 1]] * len(tokens)))
    assert_close(explain(model, tokens, method, target=Contrast(rows, 2)), found, 1e-6)


@pytest.mark.parametrize("method", some_of(METHODS))
def test_a_continuation_is_read_off_the_tokens_before_its_own(method):
    found = explain(model, tokens, method, target=Continuation(LONGER))
    assert found.shape == long_text.shape and np.isfinite(found).all()
    if method not in (*ALONE, *LINEAR):
        assert np.abs(found).sum() > 0
        return
    places = tokens.shape[1] - 1 + np.arange(3)
    each = [
        explain(model, long_text, method, target=i, query=int(place))
        for i, place in zip(LONGER, places, strict=True)
    ]
    whole = sum(each) / (len(each) if method in ALONE else 1)
    assert_close(found, whole, 2e-5)


def test_one_token_going_on_is_the_next_token():
    for target in (Continuation([3]), 3):
        found = explain(model, tokens, "alti_logit", target=target)
        shares = logit_shares(model, tokens, target=target)
        assert found.shape == tokens.shape
        assert_close(shares.logit, model(tokens).logits[:, -1, 3], 2e-5)
    other = explain(
        *(model, tokens, "alti_logit"),
        target=Continuation([3, 1]),
        instead_of=Continuation([4, 1, 1]),
    )
    one, two = (
        explain(model, tokens, "alti_logit", target=Continuation(ids))
        for ids in ([3, 1], [4, 1, 1])
    )
    length = tokens.shape[1]
    assert_close(other, one[:, :length] - two[:, :length], 2e-5)


def test_targets_may_be_mapped_over():
    """All of them in one program, as whoever compares classes does."""

    def why(target):
        return explain(model, tokens, "gradient_x_input", target=target)

    found = jax.vmap(why)(jnp.arange(3))
    assert_close(found[2], why(2), 2e-5)
    several = jax.jit(lambda x: why(MeanOf(x)))(jnp.array([1, 2]))
    assert_close(several, (why(1) + why(2)) / 2, 2e-5)


def test_classes_have_names():
    judge = jmamba.MambaClassifier.from_language_model(model, ["bad", "good"])
    found = explain(judge, tokens, "alti_logit", target="good", instead_of="bad")
    assert_close(found, explain(judge, tokens, "alti_logit", target=Contrast(1, 0)), 0)
    with pytest.raises(ValueError, match="'nice' is no class of.* bad, good"):
        explain(judge, tokens, "alti_logit", target="nice")
    with pytest.raises(ValueError, match="tokenizer.encode"):
        explain(model, tokens, "alti_logit", target="a")


def test_patches_of_a_text_that_goes_on():
    corrupted = tokens.at[:, 1].set((tokens[:, 1] + 1) % model.config.vocab_size)
    asked = Continuation([3, 1])
    found = sweep_patches(model, tokens, corrupted, "output", target=asked)
    whole, other = (
        jnp.concatenate([x, jnp.full((len(x), 1), 3)], axis=1)
        for x in (tokens, corrupted)
    )
    length = tokens.shape[1]
    assert found.values.shape == (2, length + 1, len(tokens))

    def read(logits):
        return logits[:, length - 1, 3] + logits[:, length, 1]

    assert_close(found.goal, read(model(whole).logits), 2e-5)
    assert_close(found.base, read(model(other).logits), 2e-5)
    kept = capture(model, whole, "output")["output"]
    edit = replace("output", kept[1], layers=1, positions=length)
    assert_close(found.values[1, length], read(run(model, other, edit).logits), 2e-5)
    guess = attribution_patching(model, tokens, corrupted, "output", target=asked)
    assert guess.values.shape == (2, len(tokens), length + 1)


def test_what_cannot_be_asked_is_said():
    for target, message in (
        (MeanOf([3, 99]), "target=.* is out of range"),
        (MeanOf([]), "give several integers"),
        (Continuation([]), "give several integers"),
        (np.array([[3, 1]] * len(tokens)), r"give a target for each token.*MeanOf"),
    ):
        with pytest.raises(ValueError, match=message):
            explain(model, tokens, "alti_logit", target=target)
    with pytest.raises(ValueError, match="leave query out"):
        explain(model, tokens, "alti_logit", target=Continuation([3]), query=1)
    with pytest.raises(ValueError, match="leave one of them out"):
        explain(model, tokens, "alti", target=Contrast(1, 2), instead_of=3)
    with pytest.raises(ValueError, match="is of two texts"):
        logit_shares(model, tokens, target=Contrast(Continuation([3]), 2))
    judge = jmamba.MambaClassifier.from_language_model(model, 2)
    with pytest.raises(ValueError, match="give a class as the target"):
        explain(judge, tokens, "alti_logit", target=Continuation([1]))
