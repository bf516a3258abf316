"""Converting checkpoints, as a function and on the command line."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoint_samples import (
    contents,
    edit_config,
    jax_logits,
    torch,
    torch_logits,
    torch_model,
    write_hf,
    write_json,
    write_original,
)
from helpers import relative_error
from typer.testing import CliRunner

from jmamba import MambaLM
from jmamba.checkpoints import CheckpointError, convert
from jmamba.checkpoints import conversion as conversion_module
from jmamba.checkpoints.verification import TOLERANCE, compare_logits, verify_logits
from jmamba.cli import app

ROOT = Path(__file__).parents[2]


def run(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


@pytest.mark.parametrize("kind", ["original", "mamba", "falcon_mamba"])
def test_conversion_is_verified(kind, tmp_path):
    source = tmp_path / "source"
    model = torch_model() if kind == "original" else torch_model(kind, use_bias=True)
    write_original(source) if kind == "original" else write_hf(source, model)
    found = convert(source, tmp_path / "out", verify=True)
    assert found.verification is not None
    assert found.verification.error < 1e-5 and found.verification.agreement == 1
    layouts = {"original": "original", "mamba": "hf", "falcon_mamba": "falcon"}
    assert (found.layout, found.format) == (layouts[kind], "orbax")
    assert found.dtype == "float32" and found.num_layers == 2
    assert found.num_parameters == sum(p.numel() for p in model.parameters())
    assert found.destination_bytes > 4 * found.num_parameters
    assert (
        relative_error(
            jax_logits(MambaLM.from_pretrained(tmp_path / "out")), torch_logits(model)
        )
        < 1e-5
    )


def test_conversion_to_bfloat16_is_verified_as_strictly(tmp_path):
    source = write_hf(tmp_path / "source")
    found = convert(
        source, tmp_path / "out", format="hf", dtype="bfloat16", verify=True
    )
    assert found.dtype == "bfloat16"
    assert found.verification is not None and found.verification.error < 1e-5


def test_verification_finds_a_wrong_weight(tmp_path):
    source = write_hf(tmp_path / "source")
    convert(source, tmp_path / "out", format="hf")
    edit_config(tmp_path / "out", layer_norm_epsilon=1e-3)
    with pytest.raises(CheckpointError, match="logits differ from those transformers"):
        verify_logits(source, tmp_path / "out", dtype="float32")


def test_nothing_is_written_when_verification_fails(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise CheckpointError("logits differ")

    monkeypatch.setattr(conversion_module, "verify_logits", fail)
    with pytest.raises(CheckpointError, match="logits differ"):
        convert(write_hf(tmp_path / "source"), tmp_path / "out", verify=True)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_agreement_counts_equal_predictions():
    theirs = np.eye(4, dtype=np.float32)[None]
    ours = theirs.copy()
    ours[0, 0] = [0, 2, 0, 0]
    found = compare_logits(ours, theirs)
    assert (found.error, found.agreement, found.num_tokens) == (2.0, 0.75, 4)
    assert TOLERANCE == 1e-4


def test_conversion_keeps_the_dtype_unless_asked(tmp_path):
    source = write_hf(tmp_path / "source")
    convert(source, tmp_path / "half", format="hf", dtype="float16")
    assert convert(tmp_path / "half", tmp_path / "same").dtype == "float16"
    wide = convert(tmp_path / "half", tmp_path / "wide", dtype="float32")
    assert wide.dtype == "float32"


def test_conversion_back_is_what_it_was(tmp_path):
    source = write_hf(tmp_path / "source", torch_model("falcon_mamba"))
    (source / "generation_config.json").unlink()
    edit_config(source, eos_token_id=[3, 4], pad_token_id=5)
    (source / "tokenizer.json").write_text("{}")
    convert(source, tmp_path / "orbax")
    convert(tmp_path / "orbax", tmp_path / "back", format="hf")
    expected = ["config.json", "model.safetensors", "tokenizer.json"]
    assert contents(tmp_path / "back") == expected
    model = type(torch_model("falcon_mamba")).from_pretrained(tmp_path / "back").eval()
    expected = torch_logits(torch_model("falcon_mamba"))
    np.testing.assert_array_equal(torch_logits(model), expected)
    assert model.config.eos_token_id == [3, 4] and model.config.pad_token_id == 5


def test_orbax_has_nothing_to_verify_against(tmp_path):
    convert(write_hf(tmp_path / "source"), tmp_path / "orbax")
    found = convert(tmp_path / "orbax", tmp_path / "same", format="hf", verify=True)
    assert found.num_checked > 3 and found.verification is None
    (tmp_path / "orbax" / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match="nothing to verify against"):
        convert(tmp_path / "orbax", tmp_path / "back", verify=True)


def test_unknown_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="be orbax, hf or gguf, but is 'onnx'"):
        convert(tmp_path, tmp_path / "out", format="onnx")


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_verification_says_what_is_missing(missing, tmp_path, monkeypatch):
    source = write_hf(tmp_path / "source")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(CheckpointError, match="Verifying a conversion needs.*pip inst"):
        convert(source, tmp_path / "out", verify=True)
    assert not (tmp_path / "out").exists()


def test_command_prints_a_summary(tmp_path):
    source = write_hf(tmp_path / "source")
    result = run(source, tmp_path / "out", "--format", "hf", "--verify")
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert "Converted" in text and "hf, float32" in text.replace("│", "")
    assert "1,656" in text and "same prediction at 100%" in text.replace(" │ │ │ ", " ")
    assert contents(tmp_path / "out") == contents(source)


def test_command_shows_progress(tmp_path):
    result = run(write_hf(tmp_path / "source"), tmp_path / "out", "--format", "hf")
    assert "reading" in result.stderr and "writing" in result.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{tmp}/no", "{tmp}/out"], "neither a folder here nor a Hub id"),
        (["{tmp}/source", "{tmp}/source"], "exists already.*--overwrite"),
        (["{tmp}/source", "{tmp}/out", "--dtype", "int8"], "dtype must be one of"),
        (["{tmp}/source", "{tmp}/out", "--format", "gguf"], "gguf"),
        (["{tmp}/source"], "Missing argument"),
    ],
)
def test_command_says_mistakes_with_exit_code_2(arguments, message, tmp_path):
    write_hf(tmp_path / "source")
    result = run(*(a.format(tmp=tmp_path) for a in arguments))
    assert result.exit_code == 2
    assert re.search(message, " ".join(result.stderr.split()))
    assert "Traceback" not in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_command_says_full_disks_with_exit_code_2(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jmamba.models.saving.write_config_file", fail)
    source = write_hf(tmp_path / "source")
    result = run(source, tmp_path / "out", "--format", "hf")
    assert result.exit_code == 2 and "no room left" in " ".join(result.stderr.split())
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_command_stops_at_an_interrupt_with_exit_code_130(tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("jmamba.models.saving.write_config_file", interrupt)
    source = write_hf(tmp_path / "source")
    result = run(source, tmp_path / "out", "--format", "hf")
    assert result.exit_code == 130 and "Interrupted" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_script_converts_without_torch(tmp_path):
    source = write_hf(tmp_path / "source")
    (tmp_path / "torch.py").write_text("raise ImportError('not installed')\n")
    done = subprocess.run(
        [sys.executable, ROOT / "convert_weights.py", source, tmp_path / "out"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path), "PATH": "", "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    assert "Converted" in done.stdout
    assert (
        MambaLM.from_pretrained(tmp_path / "out").config
        == MambaLM.from_pretrained(source).config
    )


def test_command_overwrites_when_asked(tmp_path):
    source = write_hf(tmp_path / "source")
    write_hf(tmp_path / "other", torch_model(seed=1))
    assert (
        run(source, tmp_path / "other", "--format", "hf", "--overwrite").exit_code == 0
    )
    tensor = torch_model().state_dict()["backbone.norm_f.weight"].numpy()
    np.testing.assert_array_equal(
        MambaLM.from_pretrained(tmp_path / "other").norm_f.scale[...], tensor
    )


def test_source_that_is_damaged_leaves_nothing(tmp_path):
    source = write_original(tmp_path / "source")
    state = torch.load(source / "pytorch_model.bin")
    state["backbone.norm_f.weight"] *= torch.nan
    torch.save(state, source / "pytorch_model.bin")
    write_json(tmp_path / "note.json", {})
    result = run(source, tmp_path / "out")
    assert result.exit_code == 2 and "not finite" in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["note.json", "source"]
