"""Tokens that end a text, and rows that are none, as a checkpoint's files say them."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_samples import (
    VOCAB,
    edit_config,
    torch,
    torch_model,
    write_hf,
    write_json,
    write_original,
)
from test_tokenizer import write_tokenizer

from jmamba import MambaConfig, MambaLM, generate
from jmamba.checkpoints import convert, load_orbax, load_tokenizer, save_orbax

NEW = 12
PROMPT = np.array([[3, 1, 4], [1, 5, 9], [2, 6, 5]])
KINDS = ("mamba", "falcon_mamba")
ABSENT = object()


def write(folder, config, generation):
    """Write a checkpoint that says its end tokens in config.json, and beside it."""
    write_hf(folder, torch_model("falcon_mamba", tie_word_embeddings=False))
    edit_config(folder, eos_token_id=config)
    file = folder / "generation_config.json"
    if generation is ABSENT:
        file.unlink()
    else:
        write_json(file, generation)
    return folder


def theirs(folder) -> np.ndarray:
    model = type(torch_model("falcon_mamba")).from_pretrained(folder).eval()
    prompt = torch.from_numpy(PROMPT)
    with torch.no_grad():
        out = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
            max_new_tokens=NEW, pad_token_id=0,
        )  # fmt: skip
    new = out[:, PROMPT.shape[1] :].numpy()
    return np.pad(new, ((0, 0), (0, NEW - new.shape[1])))


def ours(model) -> np.ndarray:
    return np.asarray(generate(model, PROMPT, max_new_tokens=NEW).tokens)


@pytest.fixture(scope="module")
def free(tmp_path_factory):
    """What comes of the prompts if nothing ends them."""
    folder = write(tmp_path_factory.mktemp("free") / "model", None, ABSENT)
    return ours(MambaLM.from_pretrained(folder))


def test_every_end_token_ends_as_in_transformers(free, tmp_path):
    a, b, c = int(free[0, 2]), int(free[1, 4]), int(free[2, 1])
    cases = {
        "one": (a, ABSENT),
        "several": ([a, b], ABSENT),
        "the second alone comes": ([VOCAB - 1 if b != VOCAB - 1 else 0, b], ABSENT),
        "beside it wins": (a, {"eos_token_id": [b, c]}),
        "an int beside it": ([a, c], {"eos_token_id": b}),
        "none beside it": ([a, b], {"eos_token_id": None}),
        "nothing beside it": (a, {}),
    }
    for i, (name, (config, generation)) in enumerate(cases.items()):
        folder = write(tmp_path / str(i), config, generation)
        model = MambaLM.from_pretrained(folder)
        expected = theirs(folder)
        np.testing.assert_array_equal(ours(model), expected, err_msg=name)
        # and what we write says the same to both
        model.save_pretrained(tmp_path / f"{i}-saved")
        np.testing.assert_array_equal(theirs(tmp_path / f"{i}-saved"), expected)
        again = MambaLM.from_pretrained(tmp_path / f"{i}-saved")
        assert again.config == model.config


def test_end_tokens_survive_orbax_and_conversion(tmp_path):
    folder = write(tmp_path / "model", 3, {"eos_token_id": [5, 7]})
    model = MambaLM.from_pretrained(folder)
    assert model.config.eos_token_id == 3 and model.config.end_tokens == (5, 7)
    save_orbax(model, tmp_path / "orbax")
    again = load_orbax(tmp_path / "orbax").config
    assert again == model.config and again.end_tokens == (5, 7)
    convert(folder, tmp_path / "converted", format="hf")
    converted = MambaLM.from_pretrained(tmp_path / "converted").config
    assert converted == model.config and converted.end_tokens == (5, 7)
    raw = json.loads((tmp_path / "converted" / "config.json").read_text())
    assert raw["eos_token_id"] == 3  # as it was


def test_tokenizer_knows_all_end_tokens(tmp_path):
    folder = write_tokenizer(write(tmp_path / "model", 3, {"eos_token_id": [5, 7]}))
    assert load_tokenizer(folder).eos_ids == (5, 7)
    edit_config(folder, tokenizer="bytes")
    assert load_tokenizer(folder).eos_ids == (5, 7)


@pytest.mark.parametrize("wrong", [-1, [3, "a"], True, [None], 2.0])
def test_end_tokens_that_are_none(wrong):
    with pytest.raises(ValueError, match="eos_token_id must be a token id"):
        MambaConfig(vocab_size=9, d_model=8, num_layers=1, eos_token_id=wrong)


# Rows of the table that are no tokens -------------------------------------------------


def test_padding_of_the_vocabulary_is_known(tmp_path):
    original = MambaLM.from_pretrained(write_original(tmp_path / "original"))
    assert original.config.vocab_size == VOCAB
    assert original.config.unpadded_vocab_size == VOCAB - 1
    original.save_pretrained(tmp_path / "saved")
    assert MambaLM.from_pretrained(tmp_path / "saved").config == original.config
    assert MambaConfig.named("mamba-130m").unpadded_vocab_size == 50277


@pytest.mark.parametrize(
    ("tokenizer", "count"),
    [
        ({"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": []}, 6),  # the end is 5
        ({"model": {"vocab": {"a": 0, "b": 8}}, "added_tokens": []}, 9),
        ({"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 11}]}, 12),
        ({"model": {"vocab": [["a", 0.0]] * 10}, "added_tokens": []}, 10),
        ({"model": {"vocab": {"a": 99}}, "added_tokens": []}, None),
        ({}, None),
    ],
    ids=str,
)
def test_tokenizer_tells_the_padding_of_the_vocabulary(tokenizer, count, tmp_path):
    folder = write(tmp_path / "model", 5, ABSENT)
    write_json(folder / "tokenizer.json", tokenizer)
    model = MambaLM.from_pretrained(folder)
    assert model.config.unpadded_vocab_size == count
    new = generate(model, jnp.array(PROMPT), max_new_tokens=NEW).tokens
    assert int(new.max()) < (count or VOCAB)


@pytest.mark.parametrize("wrong", [0, 10, 1.5, True])
def test_padding_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="unpadded_vocab_size must be 1 to vocab_size"):
        MambaConfig(vocab_size=9, d_model=8, num_layers=1, unpadded_vocab_size=wrong)
