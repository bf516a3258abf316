"""Hub ids through the real huggingface_hub client, against a loopback Hub."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_samples import contents, torch_model, write_bin, write_hf
from huggingface_hub import constants
from loopback_hub import commit_of, loopback_hub
from test_tokenizer import write_tokenizer

from jmamba import MambaLM, Vim
from jmamba.checkpoints import CheckpointError, convert, load_tokenizer
from jmamba.files.hub import locate, locate_files

ASKERS = {
    "locate": lambda out: locate("org/model"),
    "load": lambda out: MambaLM.from_pretrained("org/model"),
    "load images": lambda out: Vim.from_pretrained("org/model"),
    "tokenizer": lambda out: load_tokenizer("org/model"),
    "convert": lambda out: convert("org/model", out),
}
"""What asks the Hub for a model."""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with loopback_hub() as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
        yield hub


@pytest.fixture
def offline(monkeypatch):
    def go_offline():
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    return go_offline


def test_only_what_is_needed_is_downloaded_once(hub, tmp_path):
    folder = write_tokenizer(write_hf(write_bin(tmp_path / "model")))
    hub.publish("org/model", folder)
    found = locate("org/model")
    needed = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert contents(found) == needed
    assert sorted(hub.downloads()) == needed
    hub.requests.clear()
    assert locate("org/model") == found
    assert hub.requests == [("HEAD", "org/model", "config.json")]
    weights = (found / "model.safetensors").read_bytes()
    assert weights == (folder / "model.safetensors").read_bytes()


def test_pickles_are_downloaded_where_there_is_nothing_else(hub, tmp_path):
    hub.publish("org/model", write_bin(tmp_path / "model"))
    assert contents(locate("org/model")) == ["config.json", "pytorch_model.bin"]


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_all_shards_are_downloaded(kind, hub, tmp_path):
    if kind == "bin":
        folder = write_bin(tmp_path / "model", shards=3)
    else:
        folder = write_hf(tmp_path / "model", max_shard_size="2KB")
    hub.publish("org/model", folder)
    found = locate("org/model")
    assert contents(found) == contents(folder)
    MambaLM.from_pretrained(found)


def test_checksums_are_downloaded_and_compared_where_they_are_asked_for(hub, tmp_path):
    MambaLM.from_pretrained(write_hf(tmp_path / "first")).save_pretrained(
        tmp_path / "model"
    )
    sums = tmp_path / "model/SHA256SUMS"
    other = "0" * 64 + "  not_needed.txt\n"  # and so not downloaded
    sums.write_text(sums.read_text() + other)
    hub.publish("org/model", tmp_path / "model")
    found = convert("org/model", tmp_path / "out", verify=True)
    assert found.num_checked == 3
    sums.write_text("0" * 64 + sums.read_text()[64:])
    hub.publish("org/model", shutil.copytree(tmp_path / "model", tmp_path / "b"))
    with pytest.raises(CheckpointError, match="changed: config.json"):
        convert("org/model", tmp_path / "again", verify=True)


def test_revision_is_downloaded(hub, tmp_path):
    hub.publish("org/model", write_hf(tmp_path / "new"))
    old = write_hf(tmp_path / "old", torch_model(num_hidden_layers=1))
    hub.publish("org/model", old, "v1.0")
    assert MambaLM.from_pretrained("org/model").config.num_layers == 2
    assert MambaLM.from_pretrained("org/model", revision="v1.0").config.num_layers == 1
    assert (
        MambaLM.from_pretrained("org/model", revision=commit_of(old)).config.num_layers
        == 1
    )


def test_cached_model_loads_offline(hub, offline, tmp_path):
    hub.publish("org/model", write_hf(tmp_path / "model", max_shard_size="2KB"))
    found = locate("org/model")
    hub.requests.clear()
    offline()
    assert locate("org/model") == found
    assert hub.requests == []


def test_model_that_is_not_cached_is_said_offline(hub, offline, tmp_path):
    hub.publish("org/model", write_hf(tmp_path / "model"))
    offline()
    for ask in ASKERS.values():
        with pytest.raises(
            CheckpointError,
            match="org/model is no folder here, not all of it is in the cache .no "
            "config.json., and the Hub was not asked, since HF_HUB_OFFLINE is set. "
            "To go online type",
        ):
            ask(tmp_path / "out")
    assert hub.requests == [] and not (tmp_path / "out").exists()


def test_half_cached_model_is_said_offline(hub, offline, tmp_path):
    hub.publish("org/model", write_hf(tmp_path / "model"))
    locate_files("org/model", ["config.json"])
    offline()
    with pytest.raises(
        CheckpointError, match="cache .no weights., .*HF_HUB_OFFLINE is set"
    ):
        locate("org/model")


def test_unreachable_hub_is_said(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client tries again
    nowhere = "http://127.0.0.1:9"  # nothing listens there
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    template = nowhere + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    for ask in ASKERS.values():
        with pytest.raises(
            CheckpointError,
            match=r"org/model is no folder here.*the Hub at http://127.0.0.1:9 cannot "
            r"be reached \(.*\). Check the connection.* give its path",
        ):
            ask(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_hub_that_is_down_is_said(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.status = 503
    with pytest.raises(CheckpointError, match=r"cannot be reached \(.*503.*\). Check"):
        convert("org/model", tmp_path / "out")


def test_unknown_repository_is_said(hub):
    with pytest.raises(
        CheckpointError, match="no folder 'org/nothing' here and no such"
    ):
        locate("org/nothing")


def test_gated_repository_is_said(hub):
    hub.gated.add("org/model")
    with pytest.raises(CheckpointError, match="asks for its terms to be accepted"):
        locate("org/model")


def test_unknown_revision_is_said(hub, tmp_path):
    hub.publish("org/model", write_hf(tmp_path / "model"))
    with pytest.raises(CheckpointError, match="has no revision 'v9'"):
        locate("org/model", revision="v9")


def test_bad_id_is_said(hub):
    with pytest.raises(CheckpointError, match="neither a folder here nor a Hub id"):
        locate("org/--bad..")


def test_repository_without_weights_is_said(hub, tmp_path):
    folder = write_hf(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    hub.publish("org/model", folder)
    with pytest.raises(
        CheckpointError, match="on the Hub has no weights: none of model.s"
    ):
        locate("org/model")


def test_missing_shard_on_the_hub_is_said(hub, tmp_path):
    folder = write_hf(tmp_path / "model", max_shard_size="2KB")
    shard = sorted(folder.glob("*-of-*"))[0]
    shard.unlink()
    hub.publish("org/model", folder)
    with pytest.raises(CheckpointError, match=f"on the Hub has no {shard.name}"):
        locate("org/model")


def test_file_that_breaks_off_is_resumed(hub, tmp_path):
    folder = write_hf(tmp_path / "model")
    hub.publish("org/model", folder)
    hub.break_after["model.safetensors"] = [2000]
    found = locate("org/model")
    assert hub.downloads().count("model.safetensors") == 2
    weights = (found / "model.safetensors").read_bytes()
    assert weights == (folder / "model.safetensors").read_bytes()


def test_file_that_keeps_breaking_off_is_never_cached(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.publish("org/model", write_hf(tmp_path / "model"))
    hub.break_after["model.safetensors"] = [0] * 20
    with pytest.raises(CheckpointError, match="Downloading model.safetensors of org/"):
        locate("org/model")
    cached = contents(tmp_path / "cache")
    assert not any(name.endswith("model.safetensors") for name in cached)
    hub.break_after.clear()
    MambaLM.from_pretrained("org/model")


def test_tokenizer_of_the_hub_is_loaded_alone(hub, tmp_path):
    hub.publish("org/model", write_tokenizer(write_hf(tmp_path / "model")))
    tokenizer = load_tokenizer("org/model")
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"
    assert "model.safetensors" not in hub.downloads()


def run_python(code: str, hub, cache: Path, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ
        | {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "JAX_PLATFORMS": "cpu"}
        | environment,
    )


def test_environment_of_the_hub_client_holds(tmp_path):
    code = (
        "import jmamba; print(jmamba.MambaLM.from_pretrained('org/m').config.d_model)"
    )
    with loopback_hub() as hub:
        hub.publish("org/m", write_hf(tmp_path / "model"))
        # the client draws its bar without a terminal if TQDM_POSITION is -1
        first = run_python(code, hub, tmp_path / "cache", TQDM_POSITION="-1")
        assert first.stdout == "8\n", first.stderr
        assert "model.safetensors: 100%" in first.stderr  # the client's progress bar
        hub.requests.clear()
        offline = run_python(code, hub, tmp_path / "cache", HF_HUB_OFFLINE="1")
        assert offline.stdout == "8\n", offline.stderr
        assert hub.requests == [] and "%" not in offline.stderr
