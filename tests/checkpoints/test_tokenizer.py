"""Tokenizers of checkpoints: from their files, or bytes."""

import json

import pytest
import tokenizers
from checkpoint_samples import edit_config, write_hf, write_json, write_original
from hypothesis import given
from hypothesis import strategies as st

from jmamba import MambaLM
from jmamba.checkpoints import (
    ByteTokenizer,
    CheckpointError,
    Tokenizer,
    load_tokenizer,
    save_orbax,
)
from jmamba.figures.labels import split_pieces

TEXTS = ["hello world, hello tokens", "naïve café, naïve", "line\nline\ttab 日本語"]


def write_tokenizer(folder):
    """Train a byte-level vocabulary, as GPT-NeoX and Falcon have."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"eos_token": "<|endoftext|>"})
    return folder


@pytest.mark.parametrize("text", TEXTS)
def test_file_tokenizer_comes_back_to_the_text(text, tmp_path):
    tokenizer = load_tokenizer(write_tokenizer(write_hf(tmp_path / "model")))
    assert isinstance(tokenizer, Tokenizer)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(tokenizer.pieces(ids)) == len(ids)


def test_file_tokenizer_pieces_are_readable(tmp_path):
    tokenizer = load_tokenizer(write_tokenizer(write_hf(tmp_path / "model")))
    ids = tokenizer.encode("hello world\n☃")
    pieces = tokenizer.pieces(ids)
    assert pieces[0] == "hello" and "↵" in pieces
    assert pieces[-3:] == ["\\xe2", "\\x98", "\\x83"]  # one character of three tokens
    assert pieces[1].startswith(" ")
    assert tokenizer.pieces([0, 5000]) == ["<|endoftext|>", "<5000>"]


def write_plain(folder, **parts):
    """Write a vocabulary of letters and words, and no decoder."""
    words = ["[UNK]", *"ACGT", "hello", "world"]
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder)


def test_tokens_without_a_decoder_invent_no_blanks(tmp_path):
    letters = tokenizers.pre_tokenizers.Split("", "isolated")
    upper = tokenizers.normalizers.Replace("a", "A")
    tokenizer = write_plain(
        write_hf(tmp_path / "model"), pre_tokenizer=letters, normalizer=upper
    )
    ids = tokenizer.encode("aCGTA")
    assert ids == [1, 2, 3, 4, 1]
    assert tokenizer.decode(ids) == "ACGTA" and tokenizer.decode([2]) == "C"
    assert tokenizer.decode([0, 2]) == "[UNK]C"
    pieces = split_pieces("aCGTA", tokenizer.offsets("aCGTA"))
    assert [piece.text for piece in pieces] == list("aCGTA")  # the case is kept


def test_words_without_a_decoder_are_separate(tmp_path):
    words = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = write_plain(write_hf(tmp_path / "model"), pre_tokenizer=words)
    assert tokenizer.decode([5, 6]) == "hello world"
    pieces = split_pieces("hello  world", tokenizer.offsets("hello  world"))
    assert [piece.text for piece in pieces] == ["hello", "  world"]


@pytest.mark.parametrize("text", [*TEXTS, "a  b ", "e\u0301中 x"])
@pytest.mark.parametrize("nested", [True, False])
def test_offsets_hold_the_blanks_of_tokens(text, nested, tmp_path):
    folder = write_tokenizer(write_hf(tmp_path / "model"))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    byte_level["use_regex"] = True
    sequence = {"type": "Sequence", "processors": [byte_level]}
    described = json.loads((folder / "tokenizer.json").read_text())
    described["post_processor"] = sequence if nested else byte_level
    write_json(folder / "tokenizer.json", described)
    tokenizer = load_tokenizer(folder)
    ids, offsets = tokenizer.encode(text), tokenizer.offsets(text)
    assert len(ids) == len(offsets)
    for piece in split_pieces(text, offsets):
        decoded = tokenizer.decode(ids[piece.start : piece.stop])
        assert piece.text == decoded


def test_end_of_text_is_known(tmp_path):
    folder = write_tokenizer(write_hf(tmp_path / "model"))
    (folder / "generation_config.json").unlink()
    edit_config(folder, eos_token_id=[7, 8])
    assert load_tokenizer(folder).eos_ids == (7, 8)
    edit_config(folder, eos_token_id=None)
    assert load_tokenizer(folder).eos_ids == (0,)  # of tokenizer_config.json
    (folder / "tokenizer_config.json").unlink()
    assert load_tokenizer(folder).eos_ids == ()


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_byte_tokenizer_comes_back_to_the_text(text):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(tokenizer.pieces(ids)) == len(ids)


@pytest.mark.parametrize("write", [MambaLM.save_pretrained, save_orbax])
def test_byte_tokenizer_is_written_and_read(write, tmp_path):
    model = MambaLM.from_pretrained(write_hf(tmp_path / "model"))
    write(model, tmp_path / "bytes", tokenizer="bytes")
    assert isinstance(load_tokenizer(tmp_path / "bytes"), ByteTokenizer)
    assert MambaLM.from_pretrained(tmp_path / "bytes").config == model.config
    model.save_pretrained(tmp_path / "copy", tokenizer=tmp_path / "bytes")
    assert isinstance(load_tokenizer(tmp_path / "copy"), ByteTokenizer)


def test_tokenizer_files_are_copied(tmp_path):
    folder = write_tokenizer(write_hf(tmp_path / "model"))
    MambaLM.from_pretrained(folder).save_pretrained(tmp_path / "copy", tokenizer=folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes()


def test_missing_tokenizer_is_said(tmp_path):
    folder = write_hf(tmp_path / "model")
    with pytest.raises(CheckpointError, match="no tokenizer.json. Copy the one of the"):
        load_tokenizer(folder)
    with pytest.raises(CheckpointError, match="holds no tokenizer.json to copy"):
        MambaLM.from_pretrained(folder).save_pretrained(
            tmp_path / "copy", tokenizer=folder
        )
    assert not (tmp_path / "copy").exists()


def test_original_models_use_the_neox_tokenizer(tmp_path, monkeypatch):
    neox = write_tokenizer(write_hf(tmp_path / "neox"))
    monkeypatch.setattr("jmamba.models.dialects.NEOX", str(neox))
    folder = write_original(tmp_path / "model")
    assert load_tokenizer(folder).encode("hello") == load_tokenizer(neox).encode(
        "hello"
    )


def test_broken_tokenizer_is_said(tmp_path):
    folder = write_tokenizer(write_hf(tmp_path / "model"))
    (folder / "tokenizer.json").write_text('{"version": 9}')
    with pytest.raises(CheckpointError, match="is no tokenizer that this version"):
        load_tokenizer(folder)


@pytest.mark.parametrize("kind", ["bytes", "file"])
def test_texts_that_cannot_be_encoded_are_refused(kind, tmp_path):
    tokenizer = ByteTokenizer()
    if kind == "file":
        tokenizer = load_tokenizer(write_tokenizer(write_hf(tmp_path / "model")))
    with pytest.raises(ValueError, match="The text is empty"):
        tokenizer.encode("")
    with pytest.raises(TypeError, match="text must be a str, but is bytes"):
        tokenizer.encode(b"hello")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not valid Unicode at position 1"):
        tokenizer.encode("a\udcff")
    with pytest.raises(ValueError, match=r"Token ids must be .* but are \[-1\]"):
        tokenizer.decode([3, -1])


def test_ids_that_are_no_bytes_are_refused():
    with pytest.raises(ValueError, match=r"in \[0, 256\), but are \[256\]"):
        ByteTokenizer().pieces([1, 256])
