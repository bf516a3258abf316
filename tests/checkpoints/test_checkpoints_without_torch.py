"""What works where torch and transformers are not installed."""

import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jmamba import MambaConfig, MambaLM
from jmamba.checkpoints import (
    ByteTokenizer,
    CheckpointError,
    convert,
    load_orbax,
    load_tokenizer,
    save_orbax,
)
from jmamba.models.skeleton import parameters_of

CONFIGS = {
    "mamba": MambaConfig(
        vocab_size=256, d_model=8, num_layers=2, d_state=4, use_bias=True
    ),
    "falcon": MambaConfig(
        vocab_size=30,
        d_model=8,
        num_layers=2,
        d_inner=12,
        dt_rank=3,
        mixer_rms_eps=1e-6,
        tie_embeddings=False,
        eos_token_id=11,
    ),
}


@pytest.mark.parametrize("kind, dtype", [("mamba", "float32"), ("falcon", "bfloat16")])
def test_models_are_written_converted_and_read(kind, dtype, tmp_path):
    model = MambaLM(
        CONFIGS[kind], dtype=dtype, param_dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0)
    )
    model.save_pretrained(tmp_path / "hf", tokenizer="bytes")
    convert(tmp_path / "hf", tmp_path / "orbax", format="orbax")
    convert(tmp_path / "orbax", tmp_path / "back", format="hf")
    for name in ("hf", "orbax", "back"):
        found = MambaLM.from_pretrained(tmp_path / name, dtype="auto")
        assert found.config == model.config and found.dtype == model.dtype
        for path, array in parameters_of(found).items():
            np.testing.assert_array_equal(array, parameters_of(model)[path])
        assert isinstance(load_tokenizer(tmp_path / name), ByteTokenizer)


def test_loaded_model_can_be_trained_in_place(tmp_path):
    model = MambaLM(CONFIGS["mamba"], rngs=nnx.Rngs(0))
    model.save_pretrained(tmp_path / "model")
    model = MambaLM.from_pretrained(tmp_path / "model")

    @nnx.jit
    def step(model):
        state = nnx.state(model, nnx.Param)
        nnx.update(model, jax.tree.map(lambda p: p * jnp.asarray(2, p.dtype), state))

    before = np.array(model.norm_f.scale[...])
    step(model)
    np.testing.assert_array_equal(model.norm_f.scale[...], 2 * before)
    again = MambaLM.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(again.norm_f.scale[...], before)


def test_importing_jmamba_loads_none_of_the_libraries_for_files():
    # rich is not among them: flax imports it
    heavy = "torch transformers safetensors huggingface_hub orbax tokenizers typer"
    code = f"import sys, jmamba; print(set({heavy.split()}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


def test_orbax_needs_no_device_of_the_writer(tmp_path):
    save_orbax(MambaLM(CONFIGS["mamba"], rngs=nnx.Rngs(0)), tmp_path / "model")
    code = (
        "import jmamba, sys;"
        "print(jmamba.MambaLM.from_pretrained(sys.argv[1]).config.num_layers)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "model"], capture_output=True, text=True
    )
    assert done.stdout == "2\n", done.stderr


def test_orbax_without_values_is_refused(tmp_path):
    save_orbax(MambaLM(CONFIGS["mamba"], rngs=nnx.Rngs(0)), tmp_path / "model")
    for data in (tmp_path / "model/parameters").glob("**/d"):
        shutil.rmtree(data)
    with pytest.raises(CheckpointError, match="is no complete Orbax checkpoint"):
        load_orbax(tmp_path / "model")
