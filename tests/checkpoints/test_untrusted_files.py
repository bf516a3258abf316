"""Files that others wrote: one error, at once, whatever is in them."""

import argparse
import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from checkpoint_samples import (
    edit_config,
    torch,
    torch_model,
    write_bin,
    write_hf,
    write_original,
)
from flax import nnx
from safetensors.numpy import load_file

from jmamba import MambaConfig, MambaLM, Vim, VimConfig
from jmamba.checkpoints import (
    CheckpointError,
    convert,
    load_orbax,
    load_tokenizer,
    save_orbax,
)
from jmamba.files.checksums import compare_checksums


@pytest.mark.parametrize(
    "text, match",
    [
        ("[" * 10**5, "not valid JSON"),
        ('{"a":' * 10**5, "not valid JSON"),
        ('{"vocab_size": ' + "9" * 5000 + "}", "not valid JSON"),
        ('{"model_type": []}', r"model_type must be a text, but is \[\]"),
        ('{"model_type": {"a": 1}}', "model_type must be a text"),
    ],
)
def test_json_that_no_reader_expects_is_refused(text, match, tmp_path):
    (write_hf(tmp_path / "model") / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=match):
        MambaLM.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon must be a number"),
        ({"layer_norm_epsilon": float("inf")}, "layer_norm_epsilon must be a number a"),
        ({"layer_norm_epsilon": -1e-5}, "layer_norm_epsilon must be a number above 0"),
        ({"layer_norm_epsilon": 10**400}, "layer_norm_epsilon must be a number"),
        ({"eos_token_id": True}, "eos_token_id must be the id of a token"),
        ({"eos_token_id": 1.5}, "eos_token_id must be the id of a token"),
        ({"eos_token_id": "/etc"}, "eos_token_id must be the id of a token"),
        ({"pad_token_id": -1}, "pad_token_id must be the id of a token"),
        ({"use_bias": 1}, "use_bias must be True or False, but is 1"),
        ({"use_conv_bias": [True]}, r"use_conv_bias = \[True\]"),
        (
            {"hidden_size": 10**400},
            "hidden_size must be an integer from 1 to 1,048,576",
        ),
        ({"num_hidden_layers": 100_000}, "num_hidden_layers must be an integer from 1"),
        ({"num_hidden_layers": 10_000}, "says 10,000 layers: there are"),
        ({"intermediate_size": None, "expand": 1e999}, "expand must be a number up to"),
        ({"time_step_min": 0}, "time_step_min must be a number above 0"),
        ({"definite": 3}, "definite must be a text, but is 3"),
    ],
)
def test_fields_have_a_type_and_a_range(changes, match, tmp_path):
    folder = write_hf(tmp_path / "model")
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=match):
        MambaLM.from_pretrained(folder)


@pytest.mark.parametrize("ssm", [3, [], "a", {"expand": 1e999}, {"expand": 10**400}])
def test_original_fields_have_a_type_too(ssm, tmp_path):
    folder = write_original(tmp_path / "model", ssm_cfg=ssm or [1])
    with pytest.raises(CheckpointError, match="ssm_cfg must be an object|expand must"):
        MambaLM.from_pretrained(folder)


@pytest.mark.parametrize("ends", [True, [1, 2.5], "a/path", [None], -3, {"a": 1}])
def test_end_tokens_of_a_tokenizer_are_ids(ends, tmp_path):
    raw = {"tokenizer": "bytes", "eos_token_id": ends}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match="eos_token_id in config.json must be"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "name", ["noending", "model.bin", "x" * 300 + ".safetensors", 3, None, [1]]
)
def test_index_that_names_no_weight_file_is_refused(name, tmp_path):
    folder = write_hf(tmp_path / "model", max_shard_size="2KB")
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"][next(iter(index["weight_map"]))] = name
    file.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="names no files that end|are not there"):
        MambaLM.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_are_read(name, kind, tmp_path):
    folder = write_hf(tmp_path / "model")
    file = folder / name
    file.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="is a (named pipe|device|folder)|no "):
        load_tokenizer(folder) if "tok" in name else MambaLM.from_pretrained(folder)


def test_compressed_archive_is_refused_before_it_is_unpacked(tmp_path):
    file = write_bin(tmp_path / "model") / "pytorch_model.bin"
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        archive.writestr("archive/data/99", bytes(30_000_000))
    with pytest.raises(CheckpointError, match="is a compressed archive"):
        MambaLM.from_pretrained(tmp_path / "model")


def test_tensors_of_more_than_their_file_are_refused(tmp_path):
    folder = write_bin(tmp_path / "model")
    state = {"backbone.embeddings.weight": torch.zeros(1).expand(10**6, 10**6)}
    torch.save(dict(torch_model().state_dict()) | state, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="they share memory"):
        MambaLM.from_pretrained(folder)


def test_flipped_bit_in_a_bin_is_found(tmp_path):
    file = write_bin(tmp_path / "model") / "pytorch_model.bin"
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        entry = next(e for e in archive.infolist() if e.filename.endswith("data/3"))
    start = entry.header_offset
    names = int.from_bytes(content[start + 26 : start + 28], "little")
    extra = int.from_bytes(content[start + 28 : start + 30], "little")
    content[start + 30 + names + extra] ^= 1  # the lowest of a float's bits
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="Bad CRC-32|cut short"):
        MambaLM.from_pretrained(tmp_path / "model")


def test_bin_without_checksums_is_read(tmp_path):
    folder = write_bin(tmp_path / "model")
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(torch_model().state_dict(), folder / "pytorch_model.bin")
    finally:
        torch.serialization.set_crc32_options(before)
    MambaLM.from_pretrained(folder)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "change, match",
    [
        (lambda s, k: s | {1: s[k]}, "also holds 1"),
        (lambda s, k: s | {k: s[k].to_sparse()}, "sparse_coo float32"),
        (lambda s, k: s | {k: s[k].to("meta")}, "float32 without values"),
        (lambda s, k: s | {k: bytearray(3)}, "holds more than tensors"),
        (lambda s, k: {"state_dict": {"state_dict": s}} | {"a": 1}, None),
    ],
)
def test_state_that_no_reader_expects_is_refused(change, match, zipped, tmp_path):
    folder = write_bin(tmp_path / "model")
    state = change(dict(torch_model().state_dict()), "backbone.layers.0.mixer.D")
    file = folder / "pytorch_model.bin"
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    if match is None:
        MambaLM.from_pretrained(folder)
        return
    with pytest.raises(CheckpointError, match=match):
        MambaLM.from_pretrained(folder)


def test_state_that_holds_itself_is_refused(tmp_path):
    folder = write_bin(tmp_path / "model")
    state = {"a": 1}
    state["model"] = state  # type: ignore[assignment]
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="dicts more than 8 deep"):
        MambaLM.from_pretrained(folder)


@pytest.mark.parametrize("model", [3, ["a"], {"a": 1}])
def test_namespace_whose_model_is_no_text_is_refused(model, tmp_path):
    config = VimConfig(d_model=8, num_layers=1, image_size=16, patch_size=8)
    vim = Vim(config, rngs=nnx.Rngs(0))
    vim.save_pretrained(tmp_path / "vim")
    state = load_file(tmp_path / "vim/model.safetensors")
    state = {key: torch.from_numpy(value) for key, value in state.items()}
    args = argparse.Namespace(model=model, input_size=16)
    torch.save({"model": state, "args": args}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="which is no text"):
        Vim.from_pretrained(tmp_path / "a.pth")


@pytest.fixture(scope="module")
def orbax(tmp_path_factory):
    folder = tmp_path_factory.mktemp("orbax")
    model = MambaLM.from_pretrained(write_hf(folder / "model"))
    save_orbax(model, folder / "o", tokenizer="bytes")
    return model, folder / "o"


def orbax_files(folder: Path) -> list[str]:
    """Return the files that hold the parameters or say where they are."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = [str(path.relative_to(folder)) for path in files]
    return sorted(n for n in names if "/d/" in n or n.endswith("manifest.ocdbt"))


DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "overwritten": lambda content: b"\xff" * len(content),
    "flipped": lambda content: bytes([content[0] ^ 1]) + content[1:],
}


@pytest.mark.parametrize("way", DAMAGES)
def test_damaged_orbax_is_one_error_and_leaves_nothing(way, orbax, tmp_path):
    """Each file is refused, or was not needed; nothing complains later."""
    model, whole = orbax
    folder, complaints, refused = tmp_path / "o", [], 0
    shutil.copytree(whole, folder)
    names = orbax_files(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.unraisablehook", complaints.append)
        for name in names:
            content = (folder / name).read_bytes()
            (folder / name).write_bytes(DAMAGES[way](content))
            try:
                found = load_orbax(folder)
            except CheckpointError as error:
                assert "\n" not in str(error) and str(folder) in str(error)
                refused += 1
            else:
                for a, b in zip(*map(jax.tree.leaves, (found, model)), strict=True):
                    np.testing.assert_array_equal(a, b)
            (folder / name).write_bytes(content)
        gc.collect()
    assert complaints == []
    assert refused >= 2  # the manifest and the root at least
    load_orbax(folder)


@pytest.mark.parametrize("command", ["explain", "convert"])
def test_commands_say_damaged_orbax_in_one_paragraph(command, orbax, tmp_path):
    folder = tmp_path / "o"
    shutil.copytree(orbax[1], folder)
    for name in orbax_files(folder):
        content = (folder / name).read_bytes()
        if "/d/" in name:
            (folder / name).write_bytes(DAMAGES["overwritten"](content))
    rest = ["text", "--model", folder] if command == "explain" else [folder, "out"]
    done = subprocess.run(
        [sys.executable, "-m", "jmamba", command, *rest],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "is no complete Orbax checkpoint" in done.stderr
    said = [line for line in done.stderr.splitlines() if str(folder) in line]
    assert len(said) == 1 and done.stderr.endswith(f"{said[0]}\n")
    assert "Traceback" not in done.stderr and "ignored" not in done.stderr


@pytest.mark.parametrize("path", ["~nobody-here/model", "x" * 5000, "a\0b"])
def test_paths_that_cannot_be_are_refused(path):
    for load in (MambaLM.from_pretrained, load_orbax, load_tokenizer):
        with pytest.raises(CheckpointError, match="give the whole path|cannot be open"):
            load(path)


@pytest.mark.parametrize("save", [MambaLM.save_pretrained, save_orbax])
def test_checksums_are_those_of_sha256sum(save, tmp_path):
    model = MambaLM.from_pretrained(write_hf(tmp_path / "model"))
    save(model, tmp_path / "new", tokenizer="bytes")
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path / "new"
    )
    assert done.returncode == 0
    lines = (tmp_path / "new/SHA256SUMS").read_text().splitlines()
    assert compare_checksums(tmp_path / "new") == len(lines) >= 2
    digest = hashlib.sha256((tmp_path / "new/config.json").read_bytes()).hexdigest()
    assert f"{digest}  config.json" in lines


def test_verify_finds_a_flipped_bit_and_a_missing_file(tmp_path):
    model = MambaLM.from_pretrained(write_hf(tmp_path / "model"))
    save_orbax(model, tmp_path / "o")
    found = convert(tmp_path / "o", tmp_path / "out", format="hf", verify=True)
    assert found.num_checked > 3 and found.verification is None
    assert compare_checksums(tmp_path / "out") == 3
    file = tmp_path / "out/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    MambaLM.from_pretrained(tmp_path / "out")  # which loading does not see
    with pytest.raises(CheckpointError, match="changed: model.safetensors"):
        convert(tmp_path / "out", tmp_path / "again", verify=True)
    file.unlink()
    with pytest.raises(CheckpointError, match="missing: model.safetensors"):
        compare_checksums(tmp_path / "out")


@pytest.mark.parametrize(
    "text, match",
    [
        ("", "is empty"),
        ("abc  config.json\n", "line 1 is no checksum"),
        ("0" * 64 + "  ../config.json\n", "line 1 is no checksum"),
        ("0" * 64 + "  /etc/passwd\n", "line 1 is no checksum"),
    ],
)
def test_checksums_that_are_none_are_refused(text, match, tmp_path):
    (tmp_path / "SHA256SUMS").write_text(text)
    with pytest.raises(CheckpointError, match=match):
        compare_checksums(tmp_path)


def test_config_of_a_user_is_checked_too():
    with pytest.raises(ValueError, match="norm_eps must be a number above 0.*but is 0"):
        MambaConfig(vocab_size=9, d_model=8, num_layers=1, norm_eps=0.0)
    sizes = {"d_model": np.int64(8), "num_layers": 1, "vocab_size": 9}
    assert MambaConfig(**sizes).d_inner == 16
