"""Greedy generation against transformers, token for token."""

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
import transformers

from jmamba import LanguageModel, Sampling, generate

pytestmark = pytest.mark.usefixtures("optimised_programs")

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

VOCAB, NEW = 40, 12
SIZES = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 3,
         "state_size": 4, "tie_word_embeddings": False}  # fmt: skip
CLASSES = {
    "mamba": (transformers.MambaConfig, transformers.MambaForCausalLM),
    "falcon": (transformers.FalconMambaConfig, transformers.FalconMambaForCausalLM),
    "mamba2": (transformers.Mamba2Config, transformers.Mamba2ForCausalLM),
}
HEADS = {"mamba2": {"num_heads": 8, "head_dim": 4, "n_groups": 2}}
PROMPTS = torch.from_numpy(np.random.default_rng(0).integers(1, VOCAB, (3, 6)))
MASK = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])


@pytest.fixture(scope="module", params=CLASSES)
def pair(request, tmp_path_factory):
    """A random transformers model, and ours with its weights."""
    config_class, model_class = CLASSES[request.param]
    torch.manual_seed(0)
    sizes = SIZES | HEADS.get(request.param, {})
    model = model_class(config_class(**sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return model, LanguageModel.from_pretrained(folder)


def theirs(model, prompts, **options):
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0} | options
    with torch.no_grad():
        out = model.generate(prompts, max_new_tokens=NEW, **options)
    return out[:, prompts.shape[1] :].numpy()


def ours(model, prompts, **options):
    tokens = jnp.asarray(prompts.numpy(), jnp.int32)
    options.setdefault("stop_tokens", ())
    return np.asarray(generate(model, tokens, max_new_tokens=NEW, **options).tokens)


def test_generate_equals_transformers(pair):
    their_model, model = pair
    actual = ours(model, PROMPTS)
    assert len(np.unique(actual)) > 6  # says something
    for use_cache in (True, False):
        expected = theirs(
            their_model, PROMPTS, attention_mask=torch.ones_like(PROMPTS),
            use_cache=use_cache,
        )  # fmt: skip
        np.testing.assert_array_equal(actual, expected)


def test_generate_equals_transformers_in_a_padded_batch(pair):
    their_model, model = pair
    actual = ours(model, PROMPTS, attention_mask=jnp.asarray(MASK.numpy()))
    for row, prompt, mask in zip(actual, PROMPTS, MASK, strict=True):
        prompt = prompt[None, mask.bool()]
        alone = theirs(their_model, prompt, attention_mask=torch.ones_like(prompt))
        np.testing.assert_array_equal(row, alone[0])
    together = theirs(their_model, PROMPTS, attention_mask=MASK)
    np.testing.assert_array_equal(actual, together)


def test_generate_equals_transformers_with_stop_and_penalty(pair):
    their_model, model = pair
    everything = torch.ones_like(PROMPTS)
    stop = int(ours(model, PROMPTS, sampling=Sampling(repetition_penalty=1.5))[0, 3])
    actual = ours(
        model, PROMPTS, sampling=Sampling(repetition_penalty=1.5), stop_tokens=[stop]
    )
    expected = theirs(
        their_model, PROMPTS, attention_mask=everything, repetition_penalty=1.5,
        eos_token_id=stop,
    )  # fmt: skip
    width = expected.shape[1]  # theirs ends with the longest row
    np.testing.assert_array_equal(actual[:, :width], expected)
    assert (actual[:, width:] == 0).all()


def test_generate_equals_transformers_with_stop_strings(pair):
    their_model, model = pair
    letters = "abcdefghijklmnopqrstuvwxyz0123456789!?.,"
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.decoder = tokenizers.decoders.Fuse()
    whole = "".join(letters[i] for i in ours(model, PROMPTS[:1])[0])
    prompt = letters[PROMPTS[0, -1]]
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    for stop in (whole[2:4], whole[5:8], prompt + whole[:2], "never there"):
        expected = theirs(
            their_model, PROMPTS[:1], attention_mask=torch.ones_like(PROMPTS[:1]),
            stop_strings=[stop], tokenizer=wrapped,
        )  # fmt: skip
        actual = ours(model, PROMPTS[:1], stop_strings=[stop], tokenizer=tokenizer)
        width = expected.shape[1]
        np.testing.assert_array_equal(actual[:, :width], expected, err_msg=stop)
        assert (actual[:, width:] == 0).all()
