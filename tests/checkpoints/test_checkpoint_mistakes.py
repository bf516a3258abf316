"""Bad input: each gives one paragraph that says what is wrong and what to do."""

import json
import sys
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_samples import (
    contents,
    edit_config,
    torch,
    torch_model,
    write_bin,
    write_hf,
    write_json,
    write_original,
)
from safetensors.numpy import load_file, save_file

from jmamba import MambaLM
from jmamba.checkpoints import CheckpointError, load_orbax, save_orbax


def assert_one_paragraph(error) -> None:
    text = str(error.value)
    assert "\n" not in text and text.rstrip().endswith((".", '"'))


def rewrite(folder, change, **extra):
    """Change the tensors of model.safetensors through a function of key and array."""
    tensors = load_file(folder / "model.safetensors")
    tensors = {k: change(k, v) for k, v in tensors.items()}
    kept = {k: np.ascontiguousarray(v) for k, v in tensors.items() if v is not None}
    save_file(kept | extra, folder / "model.safetensors")


def test_all_wrong_keys_are_listed_at_once(tmp_path):
    folder = write_hf(tmp_path / "model")

    def change(key, value):
        if key.endswith("layers.1.mixer.D"):
            return None
        return value[:3] if key.endswith("x_proj.weight") else value

    odd = np.zeros(3, np.float32)
    rewrite(folder, change, **{"backbone.layers.0.mixer.B": odd, "head.bias": odd})
    with pytest.raises(CheckpointError, match="do not fit its config.json") as error:
        MambaLM.from_pretrained(folder)
    assert_one_paragraph(error)
    text = str(error.value)
    assert "missing: backbone.layers.1.mixer.D" in text
    assert "part of the model: " in text and "head.bias" in text
    assert "backbone.layers.0.mixer.B" in text
    shape = "backbone.layers.{0-1}.mixer.x_proj.weight is (3, 16), needs (9, 16)"
    assert f"of another shape: {shape}" in text


def test_stale_sizes_are_told_from_the_weights(tmp_path):
    folder = write_hf(tmp_path / "model")
    edit_config(folder, num_hidden_layers=4, hidden_size=10)
    with pytest.raises(CheckpointError, match="num_hidden_layers 2") as error:
        MambaLM.from_pretrained(folder)
    text = str(error.value)
    assert "vocab_size 24, hidden_size 8" in text
    assert "intermediate_size 16, state_size 4" in text and "time_step_rank 1" in text
    assert "backbone.layers.{2-3}.mixer.D" in text


def test_something_else_is_said_not_to_be_a_model(tmp_path):
    folder = write_hf(tmp_path / "model")
    save_file({"weight": np.zeros(3, np.float32)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="Is this a Mamba language model?"):
        MambaLM.from_pretrained(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    folder = write_hf(tmp_path / "model")

    def change(key, array):
        if key.endswith(("1.mixer.out_proj.weight", "norm_f.weight")):
            array = array.copy()
            array.flat[-1] = value
        return array

    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=r"not finite: .*\(NaN or inf") as error:
        MambaLM.from_pretrained(folder)
    assert "layers.1.mixer.out_proj" in str(error.value)
    assert "norm_f" in str(error.value)
    assert_one_paragraph(error)


def test_weights_too_large_for_a_dtype_are_refused(tmp_path):
    folder = write_hf(tmp_path / "model")
    rewrite(folder, lambda k, v: v + (1e6 if k.endswith("norm_f.weight") else 0))
    MambaLM.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="norm_f.weight .too large for float16"):
        MambaLM.from_pretrained(folder, dtype="float16")


def test_tied_head_that_differs_is_refused(tmp_path):
    folder = write_hf(tmp_path / "model", torch_model(tie_word_embeddings=False))
    edit_config(folder, tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match='write "tie_word_embeddings": false'):
        MambaLM.from_pretrained(folder)


@pytest.mark.parametrize("cut", [1, 1000, 10**9])
def test_truncated_safetensors_are_refused(cut, tmp_path):
    file = write_hf(tmp_path / "model") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(CheckpointError, match="cut short or no safetensors") as error:
        MambaLM.from_pretrained(tmp_path / "model")
    assert_one_paragraph(error)


@pytest.mark.parametrize("cut", [1, 1000, 10**9])
def test_truncated_bin_is_refused(cut, tmp_path):
    file = write_bin(tmp_path / "model") / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(CheckpointError, match="cut short or no PyTorch file") as error:
        MambaLM.from_pretrained(tmp_path / "model")
    assert_one_paragraph(error)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_missing_shards_are_all_named(kind, tmp_path):
    folder = tmp_path / "model"
    if kind == "bin":
        write_bin(folder, shards=3)
    else:
        write_hf(folder, max_shard_size="2KB")
    shards = sorted(folder.glob("*-of-*"))
    for shard in shards[:2]:
        shard.unlink()
    match = f"files that are not there: {shards[0].name}, {shards[1].name}"
    with pytest.raises(CheckpointError, match=match) as error:
        MambaLM.from_pretrained(folder)
    assert_one_paragraph(error)


def test_index_without_map_is_refused(tmp_path):
    folder = write_hf(tmp_path / "model", max_shard_size="2KB")
    write_json(folder / "model.safetensors.index.json", {"metadata": {}})
    with pytest.raises(CheckpointError, match='has no "weight_map"'):
        MambaLM.from_pretrained(folder)


def test_index_that_misplaces_a_tensor_is_refused(tmp_path):
    folder = write_hf(tmp_path / "model", max_shard_size="2KB")
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["lm_head.bias"] = next(iter(index["weight_map"].values()))
    write_json(file, index)
    with pytest.raises(CheckpointError, match="are not there: lm_head.bias"):
        MambaLM.from_pretrained(folder)


def test_tensor_in_two_files_is_refused(tmp_path):
    folder = write_bin(tmp_path / "model", shards=2)
    first, second = sorted(folder.glob("*-of-*"))
    torch.save(torch.load(first) | torch.load(second), second)
    with pytest.raises(CheckpointError, match="repeats tensors of another file"):
        MambaLM.from_pretrained(folder)


def test_quantised_weights_are_refused(tmp_path):
    folder = write_hf(tmp_path / "model")
    rewrite(folder, lambda k, v: v.astype(np.int8) if "in_proj" in k else v)
    with pytest.raises(CheckpointError, match=r"in_proj.weight \(I8\).*Quantised"):
        MambaLM.from_pretrained(folder)


def test_folder_without_weights_is_refused(tmp_path):
    (write_hf(tmp_path / "model") / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no weights: none of model.safe"):
        MambaLM.from_pretrained(tmp_path / "model")


def test_folder_without_config_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no config.json"):
        MambaLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "text, match", [("{", "is not valid JSON"), ("[]", "holds list, not a JSON object")]
)
def test_broken_config_is_refused(text, match, tmp_path):
    (write_hf(tmp_path / "model") / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=match):
        MambaLM.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"model_type": "mamba2"}, "a model of type 'mamba2'"),
        ({"model_type": "llama"}, 'jmamba reads "mamba", "falcon_mamba"'),
        ({"n_groups": 8, "chunk_size": 4}, "does not know: chunk_size, n_groups"),
        ({"mixer_rms_eps": 1e-6}, "does not know: mixer_rms_eps"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu', needs 'silu' or 'swish'"),
        ({"rms_norm": False}, "does not compute: rms_norm = False"),
        ({"quantization_config": {"bits": 4}}, "does not compute: quantization_config"),
        (
            {"hidden_size": "8"},
            "hidden_size must be an integer from 1 to .*, but is '8'",
        ),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be an integer of 1 or more"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"layer_norm_epsilon": "x"}, "layer_norm_epsilon must be a number"),
        ({"use_bias": "yes"}, "use_bias = 'yes', needs True or False"),
    ],
)
def test_config_that_changes_the_maths_is_refused(changes, match, tmp_path):
    folder = write_hf(tmp_path / "model")
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=match) as error:
        MambaLM.from_pretrained(folder)
    assert str(folder) in str(error.value)
    assert_one_paragraph(error)


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"ssm_cfg": {"layer": "Mamba2"}}, "such models load with Mamba2LM"),
        ({"ssm_cfg": {"layer": "S4"}}, "the layers are 'S4'"),
        ({"ssm_cfg": {"headdim": 64}}, "ssm_cfg holds keys that .* know: headdim"),
        ({"attn_layer_idx": [3]}, r"attn_layer_idx = \[3\]"),
        ({"d_intermediate": 64}, "d_intermediate = 64, needs 0"),
        ({"hidden_size": 8}, "does not know: hidden_size"),
    ],
)
def test_original_config_that_changes_the_maths_is_refused(changes, match, tmp_path):
    folder = write_original(tmp_path / "model", **changes)
    with pytest.raises(CheckpointError, match=match):
        MambaLM.from_pretrained(folder)


def test_harmless_and_stale_keys_are_accepted(tmp_path):
    folder = write_hf(tmp_path / "model")
    stale = {"d_model": 2048, "d_inner": 160, "n_layer": 3, "expand": 16, "ssm_cfg": {}}
    edit_config(folder, **stale, torch_dtype="float16", rms_norm=True, max_length=20)
    config = MambaLM.from_pretrained(folder).config
    assert (config.d_model, config.d_inner, config.num_layers) == (8, 16, 2)


@pytest.mark.parametrize(
    "path, match",
    [
        ("no/such/folder", "is neither a folder here nor a Hub id"),
        ("mamba-130m", "is neither a folder here nor a Hub id of the form org/name"),
        ("/no/folder", "neither a folder"),
    ],
)
def test_path_that_is_nothing_is_refused(path, match):
    with pytest.raises(CheckpointError, match=match):
        MambaLM.from_pretrained(path)


def test_file_instead_of_folder_is_refused(tmp_path):
    folder = write_hf(tmp_path / "model")
    with pytest.raises(CheckpointError, match="is a file; give the folder that holds"):
        MambaLM.from_pretrained(folder / "model.safetensors")


def test_revision_of_a_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="has no revision 'main'"):
        MambaLM.from_pretrained(tmp_path, revision="main")


@pytest.mark.parametrize("dtype", ["int8", "float99", "complex64", 3.5])
def test_dtype_that_is_none_is_refused(dtype, tmp_path):
    folder = write_hf(tmp_path / "model")
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16"):
        MambaLM.from_pretrained(folder, dtype=dtype)


def test_float64_without_x64_is_refused(tmp_path):
    folder = write_hf(tmp_path / "model")
    with pytest.raises(ValueError, match="dtype is float64, which jax turns off"):
        MambaLM.from_pretrained(folder, dtype=jnp.float64)


class TouchesAFile:
    """A pickle of it calls open(path, "w"), if whoever reads it lets it."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_that_would_run_code_is_refused(zipped, tmp_path):
    folder = write_bin(tmp_path / "model")
    state = dict(torch_model().state_dict()) | {"x": TouchesAFile(tmp_path / "ran")}
    file = folder / "pytorch_model.bin"
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="nothing of it was run") as error:
        MambaLM.from_pretrained(folder)
    assert_one_paragraph(error)
    assert not (tmp_path / "ran").exists()
    torch.load(file, weights_only=False)["x"].close()
    assert (tmp_path / "ran").exists()  # it would have


@pytest.mark.parametrize(
    "state, match",
    [
        (
            {"a": torch.zeros(1), "other": {"b": torch.zeros(1)}},
            "not a plain state dict, it also holds other",
        ),
        ({"model": {"a": torch.zeros(1)}}, "Is this a Mamba language model"),
        (
            {"model": {"a": torch.zeros(1), "other": [torch.zeros(1)]}},
            "not a plain state dict, it also holds other",
        ),
        (torch.zeros(3), "holds no tensors by name"),
        ({}, "holds no tensors by name"),
    ],
)
def test_bin_that_is_no_state_dict_is_refused(state, match, tmp_path):
    folder = write_bin(tmp_path / "model")
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=match):
        MambaLM.from_pretrained(folder)


def test_missing_torch_is_said(tmp_path, monkeypatch):
    folder = write_bin(tmp_path / "model")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CheckpointError, match=r'pip install "jmamba\[torch\]"'):
        MambaLM.from_pretrained(folder)


@pytest.mark.parametrize("version", ["2.5.1+cu121", "1.13.0"])
def test_old_torch_is_refused(version, tmp_path, monkeypatch):
    folder = write_bin(tmp_path / "model")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__=version))
    with pytest.raises(
        CheckpointError, match="needs torch 2.6 or newer.*CVE-2025-32434"
    ):
        MambaLM.from_pretrained(folder)


@pytest.mark.parametrize("write", [MambaLM.save_pretrained, save_orbax])
def test_saving_does_not_overwrite_unasked(write, tmp_path):
    model = MambaLM.from_pretrained(write_hf(tmp_path / "model"))
    write(model, tmp_path / "new")
    before = (tmp_path / "new/config.json").stat().st_mtime_ns
    with pytest.raises(CheckpointError, match="exists already.*overwrite=True"):
        write(model, tmp_path / "new")
    assert (tmp_path / "new/config.json").stat().st_mtime_ns == before
    write(model, tmp_path / "new", overwrite=True)
    assert (tmp_path / "new/config.json").stat().st_mtime_ns > before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "new"]


def test_other_folders_are_never_overwritten(tmp_path):
    model = MambaLM.from_pretrained(write_hf(tmp_path / "model"))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter").write_text("one")
    with pytest.raises(CheckpointError, match="holds no checkpoint .no config.json."):
        model.save_pretrained(tmp_path / "thesis", overwrite=True)
    with pytest.raises(CheckpointError, match="is a file; give the name of a folder"):
        model.save_pretrained(tmp_path / "thesis/chapter", overwrite=True)
    assert contents(tmp_path / "thesis") == ["chapter"]


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_failed_write_leaves_what_was_there(failure, tmp_path, monkeypatch):
    model = MambaLM.from_pretrained(write_hf(tmp_path / "model"))
    model.save_pretrained(tmp_path / "new")
    before = contents(tmp_path)

    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr("jmamba.models.saving.write_config_file", fail)
    for name in ("new", "other"):
        with pytest.raises(type(failure)):
            model.save_pretrained(tmp_path / name, overwrite=True)
    assert contents(tmp_path) == before
    MambaLM.from_pretrained(tmp_path / "new")


def test_damaged_orbax_is_refused(tmp_path):
    save_orbax(
        MambaLM.from_pretrained(write_hf(tmp_path / "model")), tmp_path / "orbax"
    )
    (tmp_path / "orbax/parameters/manifest.ocdbt").unlink()
    with pytest.raises(CheckpointError, match="is no complete Orbax checkpoint"):
        load_orbax(tmp_path / "orbax")


def test_orbax_that_does_not_fit_its_config_is_refused(tmp_path):
    save_orbax(
        MambaLM.from_pretrained(write_hf(tmp_path / "model")), tmp_path / "orbax"
    )
    edit_config(tmp_path / "orbax", num_hidden_layers=3, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match="do not fit its config.json") as error:
        load_orbax(tmp_path / "orbax")
    assert "missing: lm_head" in str(error.value)
    assert "layers.mixer.D is (2, 16), needs (3, 16)" in str(error.value)


def test_orbax_that_is_not_finite_is_refused(tmp_path):
    model = MambaLM.from_pretrained(write_hf(tmp_path / "model"))
    model.norm_f.scale[...] = jnp.full_like(model.norm_f.scale[...], jnp.nan)
    save_orbax(model, tmp_path / "orbax")
    with pytest.raises(CheckpointError, match="not finite: norm_f.scale"):
        load_orbax(tmp_path / "orbax")
