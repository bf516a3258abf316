"""Every layout in and out: the same model comes back, in the dtype asked for."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_samples import (
    VOCAB,
    contents,
    edit_config,
    jax_logits,
    original_state,
    torch,
    torch_logits,
    torch_model,
    write_bin,
    write_hf,
    write_json,
    write_original,
)
from helpers import relative_error
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jmamba import MambaLM
from jmamba.checkpoints import load_orbax, save_orbax
from jmamba.files.filling import aligned_empty
from jmamba.models.loading import Choices, read_model
from jmamba.models.mamba import MAMBA
from jmamba.models.skeleton import parameters_of

WRITERS = {
    "safetensors": write_hf,
    "safetensors shards": lambda folder: write_hf(folder, max_shard_size="1KB"),
    "bin": write_bin,
    "bin shards": lambda folder: write_bin(folder, shards=3),
    "original": lambda folder: write_original(
        folder, bos_token_id=0, eos_token_id=0, pad_token_id=0
    ),
}


def assert_same_model(found: MambaLM, expected: MambaLM) -> None:
    assert found.config == expected.config
    mine, other = parameters_of(found), parameters_of(expected)
    assert mine.keys() == other.keys()
    for path, array in mine.items():
        assert array.dtype == other[path].dtype, path
        np.testing.assert_array_equal(array, other[path], err_msg=str(path))


@pytest.mark.parametrize("writer", WRITERS)
def test_layout_gives_the_same_model(writer, tmp_path):
    model = MambaLM.from_pretrained(WRITERS[writer](tmp_path / writer))
    expected = MambaLM.from_pretrained(write_hf(tmp_path / "expected"))
    if writer == "original":  # which says how many rows are padding
        assert model.config.unpadded_vocab_size == VOCAB - 1
        expected.config = dataclasses.replace(
            expected.config, unpadded_vocab_size=VOCAB - 1
        )
    assert_same_model(model, expected)
    assert model.config.vocab_size == VOCAB


def test_shards_are_several_files(tmp_path):
    for writer in ("safetensors shards", "bin shards"):
        names = contents(WRITERS[writer](tmp_path / writer))
        assert sum("-of-" in name for name in names) >= 3, names


@pytest.mark.parametrize("stored_head", [True, False])
def test_tied_head_may_be_stored_or_not(stored_head, tmp_path):
    folder = write_original(tmp_path / "model")
    state = original_state(torch_model())
    assert "lm_head.weight" in state
    if not stored_head:
        del state["lm_head.weight"]
    torch.save(state, folder / "pytorch_model.bin")
    model = MambaLM.from_pretrained(folder)
    assert model.lm_head is None
    assert relative_error(jax_logits(model), torch_logits(torch_model())) < 1e-5


def test_early_key_name_in_hf_layout_is_read(tmp_path):
    folder = write_bin(tmp_path / "model")
    torch.save(original_state(torch_model()), folder / "pytorch_model.bin")
    assert_same_model(
        MambaLM.from_pretrained(folder),
        MambaLM.from_pretrained(write_hf(tmp_path / "expected")),
    )


def test_other_names_of_weight_files_are_found(tmp_path):
    folder = write_bin(tmp_path / "model")
    (folder / "pytorch_model.bin").rename(folder / "mine.pth")
    assert_same_model(
        MambaLM.from_pretrained(folder),
        MambaLM.from_pretrained(write_hf(tmp_path / "expected")),
    )


def test_old_stream_format_is_read(tmp_path):
    folder = write_bin(tmp_path / "model")
    torch.save(
        torch_model().state_dict(),
        folder / "pytorch_model.bin",
        _use_new_zipfile_serialization=False,
    )
    assert_same_model(
        MambaLM.from_pretrained(folder),
        MambaLM.from_pretrained(write_hf(tmp_path / "expected")),
    )


def test_safetensors_are_preferred(tmp_path):
    folder = write_hf(write_bin(tmp_path / "model"))
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    MambaLM.from_pretrained(folder)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_mixed_precision_keeps_sensitive_parameters(stored, tmp_path):
    model = torch_model()
    state = {
        key: value if key.endswith(("A_log", ".D")) else value.to(stored)
        for key, value in model.state_dict().items()
    }
    folder = write_bin(tmp_path / "model")
    torch.save(state, folder / "pytorch_model.bin")
    name = str(stored).removeprefix("torch.")
    kept = MambaLM.from_pretrained(folder, dtype="auto")
    assert kept.dtype == kept.embedding[...].dtype == jnp.dtype(name)
    mixer = kept.layers.mixer
    for parameter in (mixer.A_log, mixer.D, mixer.dt_bias):
        assert parameter[...].dtype == jnp.float32
    exact = model.state_dict()["backbone.layers.1.mixer.A_log"].numpy()
    np.testing.assert_array_equal(mixer.A_log[...][1], exact)
    widened = MambaLM.from_pretrained(folder)
    assert widened.embedding[...].dtype == widened.dtype == jnp.float32
    expected = state["backbone.embeddings.weight"].float().numpy()
    np.testing.assert_array_equal(widened.embedding[...], expected)


@pytest.mark.parametrize(
    "dtype, param_dtype, compute, param",
    [
        (None, None, "float32", "float32"),
        ("bfloat16", None, "bfloat16", "bfloat16"),
        (jnp.bfloat16, jnp.float32, "bfloat16", "float32"),
        ("float32", "auto", "float32", "float32"),
    ],
)
def test_dtype_is_for_computing_and_storing(
    dtype, param_dtype, compute, param, tmp_path
):
    folder = write_hf(tmp_path / "model")
    model = MambaLM.from_pretrained(folder, dtype=dtype, param_dtype=param_dtype)
    assert model.dtype == jnp.dtype(compute)
    assert model.embedding[...].dtype == jnp.dtype(param)
    assert model.layers.mixer.in_proj.kernel[...].dtype == jnp.dtype(param)
    assert model.layers.mixer.in_proj.dtype == jnp.dtype(compute)


def test_written_bfloat16_is_read_back(tmp_path):
    model = MambaLM.from_pretrained(write_hf(tmp_path / "theirs"), dtype="bfloat16")
    model.save_pretrained(tmp_path / "ours")
    assert (
        json.loads((tmp_path / "ours/config.json").read_text())["dtype"] == "bfloat16"
    )
    assert_same_model(MambaLM.from_pretrained(tmp_path / "ours", dtype="auto"), model)
    save_orbax(model, tmp_path / "orbax")
    assert_same_model(MambaLM.from_pretrained(tmp_path / "orbax", dtype="auto"), model)
    assert (
        MambaLM.from_pretrained(tmp_path / "orbax").embedding[...].dtype == jnp.float32
    )


@pytest.mark.parametrize("kind", ["mamba", "falcon_mamba"])
def test_saved_models_come_back(kind, tmp_path):
    source = torch_model(kind, tie_word_embeddings=False, use_bias=True, expand=3)
    model = MambaLM.from_pretrained(write_hf(tmp_path / "theirs", source))
    model.save_pretrained(tmp_path / "hf")
    save_orbax(model, tmp_path / "orbax")
    assert_same_model(MambaLM.from_pretrained(tmp_path / "hf"), model)
    assert_same_model(load_orbax(tmp_path / "orbax"), model)


def test_saved_shards_come_back(tmp_path):
    model = MambaLM.from_pretrained(write_hf(tmp_path / "theirs"))
    model.save_pretrained(tmp_path / "ours", shard_bytes=2000)
    index = json.loads((tmp_path / "ours/model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) >= 3
    assert all((tmp_path / "ours" / name).stat().st_size < 4500 for name in files)
    assert_same_model(MambaLM.from_pretrained(tmp_path / "ours"), model)
    reference = type(torch_model()).from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_array_equal(torch_logits(reference), torch_logits(torch_model()))


def test_every_choice_of_the_config_survives(tmp_path):
    folder = write_hf(tmp_path / "model", torch_model(conv_kernel=3, time_step_rank=2))
    (folder / "generation_config.json").unlink()
    edit_config(
        folder,
        eos_token_id=[5, 6],
        layer_norm_epsilon=1e-3,
        residual_in_fp32=False,
        time_step_min=0.01,
        time_step_max=0.2,
        time_step_floor=1e-3,
    )
    model = MambaLM.from_pretrained(folder)
    assert model.config.eos_token_id == (5, 6)
    assert not model.config.residual_in_fp32
    model.save_pretrained(tmp_path / "again")
    assert MambaLM.from_pretrained(tmp_path / "again").config == model.config


def test_orbax_restores_into_a_sharding(tmp_path):
    save_orbax(
        MambaLM.from_pretrained(write_hf(tmp_path / "model")), tmp_path / "orbax"
    )
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    split, whole = (NamedSharding(mesh, PartitionSpec(axis)) for axis in ("data", None))

    def sharding(path, shape):
        return split if path == ("embedding",) else whole

    model = load_orbax(tmp_path / "orbax", sharding=sharding)
    assert model.embedding[...].sharding == split
    assert model.norm_f.scale[...].sharding == whole
    assert_same_model(model, MambaLM.from_pretrained(tmp_path / "orbax"))


def test_remat_is_passed_on(tmp_path):
    save_orbax(
        MambaLM.from_pretrained(write_hf(tmp_path / "model"), remat=True),
        tmp_path / "orbax",
    )
    assert MambaLM.from_pretrained(tmp_path / "model", remat=True).remat
    assert MambaLM.from_pretrained(tmp_path / "orbax", remat=True).remat
    assert not MambaLM.from_pretrained(tmp_path / "orbax").remat


def test_loading_holds_little_more_than_the_model(tmp_path):
    import tracemalloc

    sizes = {"vocab_size": 4096, "hidden_size": 256, "num_hidden_layers": 4}
    folder = write_hf(tmp_path / "model", torch_model(**sizes), max_shard_size="4MB")
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    MambaLM.from_pretrained(folder)  # whatever is imported on the way
    tracemalloc.start()
    MambaLM.from_pretrained(folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 10e6
    assert peak < size + 4e6 + 2e6  # a shard, and the libraries' own


def test_progress_counts_to_the_end(tmp_path):
    calls = []
    folder = write_hf(tmp_path / "model", max_shard_size="1KB")
    read_model(MAMBA, folder, Choices(), progress=lambda *call: calls.append(call))
    done = [d for _, d, _ in calls]
    assert done == sorted(done) and {what for what, _, _ in calls} == {"reading"}
    assert len(calls) > 20 and done[-1] == calls[-1][2]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_host_arrays_are_taken_over_without_a_copy(dtype):
    host = aligned_empty((3, 5, 7), jnp.dtype(dtype))
    host[:] = 1
    array = jax.device_put(host, may_alias=True)
    assert array.unsafe_buffer_pointer() == host.ctypes.data


def test_index_of_other_folders_is_refused(tmp_path):
    folder = write_hf(tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"lm_head.weight": "../elsewhere.safetensors"}}
    write_json(folder / "model.safetensors.index.json", index)
    with pytest.raises(ValueError, match="names files outside of its folder: ../elsew"):
        MambaLM.from_pretrained(folder)
