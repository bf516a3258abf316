"""What was read is written back: ids, generation settings and all files."""

import json
import os
from typing import Any

import jax.numpy as jnp
import pytest
from checkpoint_samples import (
    contents,
    edit_config,
    torch_model,
    transformers,
    write_hf,
    write_json,
    write_original,
)
from flax import nnx
from test_hub import hub, offline  # noqa: F401
from test_tokenizer import write_tokenizer

from jmamba import MambaConfig, MambaLM
from jmamba.checkpoints import (
    ByteTokenizer,
    CheckpointError,
    convert,
    load_orbax,
    load_tokenizer,
    save_orbax,
)
from jmamba.generation import generate

IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
CASES = {
    "one end": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3},
    "several ends": {
        "bos_token_id": 0,
        "eos_token_id": [11, 10, 2],
        "pad_token_id": 11,
    },
    "nothing but an end": {
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": None,
    },
    "no end": {"bos_token_id": 4, "eos_token_id": None, "pad_token_id": 0},
}
GENERATION = {
    "bos_token_id": 1,
    "eos_token_id": [5, 6, 7],
    "pad_token_id": 8,
    "do_sample": True,
    "temperature": 0.7,
    "top_p": 0.9,
    "stop_strings": ["###"],
    "transformers_version": "4.40.0",
}
MESSAGES = [{"role": "user", "content": "hello"}]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}!{% endfor %}"


def write_ids(folder, kind, ids):
    model = torch_model(kind)
    write_hf(folder, model)
    raw = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", raw | ids)  # null too
    (folder / "generation_config.json").unlink()
    return folder


def write_complete(folder):
    """Write a model with all files that transformers reads beside the weights."""
    write_tokenizer(write_hf(folder))
    write_json(folder / "generation_config.json", GENERATION)
    config = {
        "eos_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", {"eos_token": "<|endoftext|>"})
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "additional_chat_templates").mkdir()
    template = folder / "additional_chat_templates" / "loud.jinja"
    template.write_text(TEMPLATE.replace("!", "!!!"))
    return folder


def read_ids(folder):
    config = transformers.AutoConfig.from_pretrained(folder)
    return {name: getattr(config, name) for name in IDS}


@pytest.mark.parametrize("kind", ["mamba", "falcon_mamba"])
@pytest.mark.parametrize("case", CASES)
def test_ids_come_back(kind, case, tmp_path):
    ids = CASES[case]
    source = write_ids(tmp_path / "source", kind, ids)
    model = MambaLM.from_pretrained(source)
    model.save_pretrained(tmp_path / "saved")
    save_orbax(model, tmp_path / "orbax")
    load_orbax(tmp_path / "orbax").save_pretrained(tmp_path / "again")
    convert(source, tmp_path / "converted", format="hf", verify=True)
    convert(tmp_path / "orbax", tmp_path / "back", format="hf")
    for name in ("source", "saved", "again", "converted", "back"):
        assert read_ids(tmp_path / name) == ids, name
        assert MambaLM.from_pretrained(tmp_path / name).config == model.config
        settings = transformers.GenerationConfig.from_model_config(
            transformers.AutoConfig.from_pretrained(tmp_path / name)
        )
        assert settings.eos_token_id == ids["eos_token_id"]


@pytest.mark.parametrize("kind", ["mamba", "falcon_mamba"])
def test_ids_that_are_not_told_are_transformers_own(kind, tmp_path):
    source = write_hf(tmp_path / "source", torch_model(kind))
    edit_config(source, **dict.fromkeys(IDS))  # removes them
    (source / "generation_config.json").unlink()
    expected = read_ids(source)
    assert set(expected.values()) == {0}
    model = MambaLM.from_pretrained(source)
    assert {name: getattr(model.config, name) for name in IDS} == expected
    model.save_pretrained(tmp_path / "saved")
    assert read_ids(tmp_path / "saved") == expected


def test_new_models_have_the_ids_of_their_configuration(tmp_path, unchecked):
    sizes: Any = {"vocab_size": 9, "d_model": 8, "num_layers": 1}
    ends: Any = [3, 5]  # a list, as transformers has it
    config = MambaConfig(**sizes, eos_token_id=ends)
    assert config == MambaConfig(**sizes, eos_token_id=(3, 5)) and hash(config)
    MambaLM(config, rngs=nnx.Rngs(0)).save_pretrained(tmp_path / "new")
    expected = {"bos_token_id": None, "eos_token_id": [3, 5], "pad_token_id": None}
    assert read_ids(tmp_path / "new") == expected


@pytest.mark.parametrize("ids", [{"eos_token_id": "a"}, {"pad_token_id": [1, 2]}])
def test_ids_that_are_none_are_refused(ids, tmp_path):
    source = write_hf(tmp_path / "source")
    edit_config(source, **ids)
    with pytest.raises(CheckpointError, match="must be the id of a token or null"):
        MambaLM.from_pretrained(source)


def test_generation_stops_at_each_of_several_ends(tmp_path):
    source = write_hf(tmp_path / "source")
    (source / "generation_config.json").unlink()  # its ends would win
    model = MambaLM.from_pretrained(source)
    prompt = jnp.array([[3, 1, 4]])
    free = generate(model, prompt, max_new_tokens=6, stop_tokens=()).tokens[0].tolist()
    edit_config(source, eos_token_id=[23 if 23 not in free else 22, free[2]])
    ending = generate(MambaLM.from_pretrained(source), prompt, max_new_tokens=6)
    first = free.index(free[2]) + 1
    assert int(ending.lengths[0]) == first


def test_generation_settings_come_back(tmp_path):
    source = write_complete(tmp_path / "source")
    model = MambaLM.from_pretrained(source)
    model.save_pretrained(tmp_path / "saved")
    save_orbax(model, tmp_path / "orbax")
    load_orbax(tmp_path / "orbax").save_pretrained(tmp_path / "again")
    convert(tmp_path / "orbax", tmp_path / "converted", format="hf")
    for name in ("saved", "orbax", "again", "converted"):
        file = tmp_path / name / "generation_config.json"
        assert json.loads(file.read_text()) == GENERATION, name
    settings = transformers.GenerationConfig.from_pretrained(tmp_path / "converted")
    assert settings.eos_token_id == [5, 6, 7] and settings.temperature == 0.7


def test_generation_settings_are_no_part_of_the_model(tmp_path):
    source = write_complete(tmp_path / "source")
    with_settings = MambaLM.from_pretrained(source).config
    (source / "generation_config.json").unlink()
    without = MambaLM.from_pretrained(source).config
    assert with_settings == without and hash(with_settings) == hash(without)


def test_broken_generation_settings_are_said(tmp_path):
    source = write_complete(tmp_path / "source")
    (source / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="generation_config.json is not valid JS"):
        MambaLM.from_pretrained(source)


def copy_by_saving(source, destination):
    MambaLM.from_pretrained(source).save_pretrained(destination, tokenizer=source)


def copy_by_converting(source, destination):
    convert(source, destination, format="hf")


@pytest.mark.parametrize("copy", [copy_by_saving, copy_by_converting])
def test_no_file_is_lost(copy, tmp_path):
    source = write_complete(tmp_path / "source")
    copy(source, tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(source)
    for name in contents(source):
        if name not in ("config.json", "generation_config.json", "model.safetensors"):
            expected = (source / name).read_bytes()
            assert (tmp_path / "copy" / name).read_bytes() == expected
    ours, theirs = (
        transformers.AutoTokenizer.from_pretrained(folder)
        for folder in (tmp_path / "copy", source)
    )
    for options in ({}, {"chat_template": "loud"}):
        found = ours.apply_chat_template(MESSAGES, tokenize=False, **options)
        assert found == theirs.apply_chat_template(MESSAGES, tokenize=False, **options)
        assert found == ("hello!!!" if options else "hello!")


def test_no_file_of_the_hub_is_lost(hub, offline, tmp_path):  # noqa: F811
    source = write_complete(tmp_path / "source")
    hub.publish("org/model", source)
    copy_by_converting("org/model", tmp_path / "converted")
    copy_by_saving("org/model", tmp_path / "saved")
    hub.requests.clear()
    offline()
    copy_by_converting("org/model", tmp_path / "offline")
    assert hub.requests == []
    for name in ("converted", "saved", "offline"):
        assert contents(tmp_path / name) == contents(source)


# Saving over a checkpoint -------------------------------------------------------------


def test_saving_over_a_model_keeps_its_tokenizer_and_other_files(tmp_path):
    folder = write_complete(tmp_path / "model")
    (folder / "README.md").write_text("mine")
    (folder / "runs").mkdir()
    (folder / "runs" / "loss.csv").write_text("1,2")
    os.symlink("runs/loss.csv", folder / "latest")
    before = contents(folder)
    MambaLM.from_pretrained(folder).save_pretrained(folder, overwrite=True)
    assert contents(folder) == before
    assert (folder / "runs" / "loss.csv").read_text() == "1,2"
    assert os.readlink(folder / "latest") == "runs/loss.csv"
    assert transformers.AutoTokenizer.from_pretrained(folder).chat_template
    save_orbax(MambaLM.from_pretrained(folder), folder, overwrite=True)
    assert "model.safetensors" not in contents(folder)
    assert set(before) - set(contents(folder)) == {"model.safetensors"}


def test_saving_over_a_model_of_bytes_keeps_that_it_is_one(tmp_path):
    model = MambaLM.from_pretrained(write_hf(tmp_path / "source"))
    model.save_pretrained(tmp_path / "bytes", tokenizer="bytes")
    model.save_pretrained(tmp_path / "bytes", overwrite=True)
    assert isinstance(load_tokenizer(tmp_path / "bytes"), ByteTokenizer)


def test_another_tokenizer_takes_the_place_of_the_old_one(tmp_path):
    folder = write_complete(tmp_path / "model")
    model = MambaLM.from_pretrained(folder)
    model.save_pretrained(folder, overwrite=True, tokenizer="bytes")
    written = ["config.json", "generation_config.json", "model.safetensors"]
    assert contents(folder) == written


def test_old_shards_do_not_stay(tmp_path):
    folder = write_hf(tmp_path / "model", max_shard_size="1KB")
    copy_by_converting(write_original(tmp_path / "source"), tmp_path / "out")
    convert(tmp_path / "source", folder, format="hf", overwrite=True)
    assert contents(folder) == contents(tmp_path / "out")


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("broken_call", [1, 2])
def test_rename_that_fails_leaves_the_old_model(
    error, broken_call, tmp_path, monkeypatch
):
    folder = write_complete(tmp_path / "model")
    before = {name: (folder / name).read_bytes() for name in contents(folder)}
    model = MambaLM.from_pretrained(folder)
    replace, calls = os.replace, []

    def break_once(source, destination):
        calls.append(source)
        if len(calls) == broken_call:
            raise error
        replace(source, destination)

    monkeypatch.setattr("jmamba.files.exchange._swap", lambda *names: False)
    monkeypatch.setattr("jmamba.files.exchange.os.replace", break_once)
    with pytest.raises(type(error)):
        model.save_pretrained(folder, overwrite=True)
    monkeypatch.undo()
    assert {name: (folder / name).read_bytes() for name in contents(folder)} == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_conversion_that_is_refused_leaves_the_old_model(tmp_path):
    folder = write_complete(tmp_path / "model")
    before = {name: (folder / name).read_bytes() for name in contents(folder)}
    source = write_hf(tmp_path / "source")
    edit_config(source, num_hidden_layers=7)
    with pytest.raises(CheckpointError, match="do not fit"):
        convert(source, folder, format="hf", overwrite=True)
    assert {name: (folder / name).read_bytes() for name in contents(folder)} == before
