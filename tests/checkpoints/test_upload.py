"""Uploading models through the real huggingface_hub client, to a loopback Hub."""

import json
from typing import Any

import numpy as np
import pytest
from checkpoint_samples import contents, torch_logits, torch_model, write_hf
from flax import nnx
from huggingface_hub import constants
from test_hub import hub, offline  # noqa: F401
from test_round_trip import write_complete
from test_vision import definition, write_pth

from jmamba import MambaLM, Vim
from jmamba.checkpoints import CheckpointError, load_tokenizer
from jmamba.models.skeleton import parameters_of


def files_of(hub, repository, revision="main"):  # noqa: F811
    return contents(hub.revisions[repository, revision])


def test_uploaded_model_comes_back(hub, tmp_path):  # noqa: F811
    source = write_complete(tmp_path / "source")
    model = MambaLM.from_pretrained(source)
    url = model.push_to_hub("org/model", tokenizer=source)
    assert url.startswith(f"{hub.url}/org/model/commit/")
    assert hub.commits == ["Upload MambaLM"] and len(hub.created) == 1
    assert files_of(hub, "org/model") == contents(source)
    theirs = type(torch_model()).from_pretrained(hub.revisions["org/model", "main"])
    np.testing.assert_array_equal(
        torch_logits(theirs.eval()), torch_logits(torch_model())
    )
    found = MambaLM.from_pretrained("org/model")
    assert found.config == model.config
    for path, value in parameters_of(found).items():
        np.testing.assert_array_equal(value, parameters_of(model)[path])
    assert load_tokenizer("org/model").encode("hello")


def test_vim_is_uploaded(hub, tmp_path):  # noqa: F811
    file = write_pth(tmp_path / "vim.pth", definition.random_state())
    vim = Vim.from_pretrained(file)
    vim.push_to_hub("org/vim", message="Pictures", private=True)
    assert hub.commits == ["Pictures"] and "private" in str(hub.created[0])
    assert Vim.from_pretrained("org/vim").config == vim.config


def test_files_of_the_old_model_go_and_others_stay(hub, tmp_path):  # noqa: F811
    old = write_hf(tmp_path / "old", torch_model(seed=1), max_shard_size="1KB")
    (old / "README.md").write_text("card")
    (old / "tokenizer.json").write_text("{}")
    (old / "parameters").mkdir()
    (old / "parameters" / "_METADATA").write_text("{}")
    hub.publish("org/model", old)
    model = MambaLM.from_pretrained(write_hf(tmp_path / "new"))
    model.push_to_hub("org/model")
    assert hub.created == []
    expected = ["README.md", "config.json", "generation_config.json",
                "model.safetensors", "tokenizer.json"]  # fmt: skip
    assert files_of(hub, "org/model") == expected
    np.testing.assert_array_equal(
        MambaLM.from_pretrained("org/model").embedding[...], model.embedding[...]
    )


def test_shards_and_branches(hub, tmp_path):  # noqa: F811
    source = write_hf(tmp_path / "source")
    hub.publish("org/model", source)
    hub.publish("org/model", source, "trial")
    model = MambaLM.from_pretrained(source)
    model.push_to_hub("org/model", revision="trial", shard_bytes=2000)
    index = hub.revisions["org/model", "trial"] / "model.safetensors.index.json"
    assert len(set(json.loads(index.read_text())["weight_map"].values())) >= 3
    assert files_of(hub, "org/model") == contents(source)
    with pytest.raises(CheckpointError, match="Is there a branch 'nowhere'"):
        model.push_to_hub("org/model", revision="nowhere")


def test_changed_model_is_not_uploaded(hub, tmp_path):  # noqa: F811
    model: Any = MambaLM.from_pretrained(write_hf(tmp_path / "source"))
    model.steering = nnx.Param(model.norm_f.scale[...])
    with pytest.raises(CheckpointError, match="Parameters unknown: steering"):
        model.push_to_hub("org/model")
    assert hub.created == [] and hub.commits == []


def test_account_is_asked_for(hub, tmp_path):  # noqa: F811
    hub.token = "hf_good"
    model = MambaLM.from_pretrained(write_hf(tmp_path / "source"))
    for token in (None, "hf_bad"):
        with pytest.raises(CheckpointError, match="answered 401. Type hf auth login"):
            model.push_to_hub("org/model", token=token)
    assert hub.commits == []
    model.push_to_hub("org/model", token="hf_good")
    assert len(hub.commits) == 1


def test_hub_that_cannot_be_reached_is_said(hub, offline, tmp_path, monkeypatch):  # noqa: F811
    model = MambaLM.from_pretrained(write_hf(tmp_path / "source"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        CheckpointError,
        match=r"Nothing was uploaded to org/model: .* cannot be reached",
    ):
        model.push_to_hub("org/model")
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    hub.status = 500
    with pytest.raises(CheckpointError, match=r"the Hub answered 500.*Try again later"):
        model.push_to_hub("org/model")


@pytest.mark.parametrize("name", ["a/b/c", "org model", ""])
def test_name_that_is_none_is_refused(name, tmp_path):
    model = MambaLM.from_pretrained(write_hf(tmp_path / "source"))
    with pytest.raises(CheckpointError, match="is no name of a repository"):
        model.push_to_hub(name)
