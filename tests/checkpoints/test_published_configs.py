"""The configurations of released models, as their files say them."""

import json

import pytest

from jmamba import MambaConfig
from jmamba.files.json_files import read_json
from jmamba.models.architecture import find_architecture
from jmamba.models.mamba.layout import write_config

ORIGINAL = {
    "d_model": 768,
    "n_layer": 24,
    "vocab_size": 50277,
    "ssm_cfg": {},
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 8,
}

HF_790M = {
    "architectures": ["MambaForCausalLM"],
    "bos_token_id": 0,
    "conv_kernel": 4,
    "d_inner": 160,  # stale
    "d_model": 2048,  # stale
    "eos_token_id": 0,
    "expand": 2,
    "fused_add_norm": True,
    "hidden_act": "silu",
    "hidden_size": 1536,
    "initializer_range": 0.1,
    "intermediate_size": 3072,
    "layer_norm_epsilon": 1e-05,
    "model_type": "mamba",
    "n_layer": 24,  # stale
    "num_hidden_layers": 48,
    "pad_token_id": 0,
    "pad_vocab_size_multiple": 8,
    "rescale_prenorm_residual": False,
    "residual_in_fp32": True,
    "rms_norm": True,
    "ssm_cfg": {},
    "state_size": 16,
    "time_step_floor": 0.0001,
    "time_step_init_scheme": "random",
    "time_step_max": 0.1,
    "time_step_min": 0.001,
    "time_step_rank": 96,
    "time_step_scale": 1.0,
    "torch_dtype": "float32",
    "transformers_version": "4.39.0.dev0",
    "use_bias": False,
    "use_cache": True,
    "use_conv_bias": True,
    "vocab_size": 50280,
}

FALCON_7B = {
    "architectures": ["FalconMambaForCausalLM"],
    "bos_token_id": 0,
    "conv_kernel": 4,
    "eos_token_id": 11,
    "expand": 16,  # intermediate_size wins
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.1,
    "intermediate_size": 8192,
    "layer_norm_epsilon": 1e-05,
    "mixer_rms_eps": 1e-06,
    "model_type": "falcon_mamba",
    "num_hidden_layers": 64,
    "pad_token_id": 11,
    "residual_in_fp32": True,
    "state_size": 16,
    "tie_word_embeddings": False,
    "time_step_rank": 256,
    "torch_dtype": "bfloat16",
    "use_bias": False,
    "use_conv_bias": True,
    "use_falcon_mambapy": False,
    "vocab_size": 65024,
}


def write_json(file, raw):
    file.write_text(json.dumps(raw))


def read(folder):
    """Return the configuration and the layout that a folder's config.json tells."""
    raw = read_json(folder / "config.json")
    return find_architecture(raw).read(raw, str(folder / "config.json"))


@pytest.mark.parametrize(
    "raw, name, layout",
    [
        (ORIGINAL, "mamba-130m", "original"),
        (HF_790M, "mamba-790m", "hf"),
        (FALCON_7B, "falcon-mamba-7b", "falcon"),
    ],
)
def test_published_config_is_the_named_one(raw, name, layout, tmp_path):
    write_json(tmp_path / "config.json", raw)
    assert read(tmp_path) == (MambaConfig.named(name), layout)


@pytest.mark.parametrize(
    "rows, multiple, padded", [(50277, 8, 50280), (50280, 8, 50280), (50277, 16, 50288)]
)
def test_vocabulary_is_padded_as_the_original_code_does(
    rows, multiple, padded, tmp_path
):
    raw = ORIGINAL | {"vocab_size": rows, "pad_vocab_size_multiple": multiple}
    write_json(tmp_path / "config.json", raw)
    assert read(tmp_path)[0].vocab_size == padded


def test_original_layer_options_are_read(tmp_path):
    ssm = {"d_state": 8, "d_conv": 3, "expand": 3, "dt_rank": 5, "bias": True,
           "conv_bias": False, "dt_min": 0.01}  # fmt: skip
    raw = ORIGINAL | {"ssm_cfg": ssm, "tie_embeddings": False, "vocab_size": 100}
    write_json(tmp_path / "config.json", raw)
    found, _ = read(tmp_path)
    assert (found.d_state, found.d_conv, found.d_inner, found.dt_rank) == (
        8,
        3,
        2304,
        5,
    )
    assert found.use_bias and not found.use_conv_bias and not found.tie_embeddings
    assert found.dt_min == 0.01
    assert found.eos_token_id is None  # of an unknown tokenizer


def test_hf_sizes_that_are_missing_follow_from_others(tmp_path):
    raw = {"model_type": "mamba", "d_model": 40, "n_layer": 3, "vocab_size": 11}
    write_json(tmp_path / "config.json", raw)
    found, _ = read(tmp_path)
    assert (found.d_model, found.num_layers, found.d_inner) == (40, 3, 80)
    assert (found.dt_rank, found.d_state, found.d_conv) == (3, 16, 4)


@pytest.mark.parametrize("name", ["mamba-2.8b", "falcon-mamba-7b"])
def test_written_config_is_read_back(name, tmp_path):
    config = MambaConfig.named(name)
    raw = write_config(config, dtype="bfloat16") | {"tokenizer": "bytes"}
    write_json(tmp_path / "config.json", raw)
    assert read(tmp_path)[0] == config
    assert raw["tokenizer"] == "bytes" and raw["dtype"] == "bfloat16"
