"""Vision Mamba between its authors' files, safetensors and Orbax."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vision_definition as definition
from random_models import random_text_model
from safetensors.numpy import load_file
from test_conversion import run
from test_vision import write_pth
from vision_definition import draw_images, tiny_vim

from jmamba import MambaLM, Vim, VimConfig
from jmamba.checkpoints import (
    CheckpointError,
    convert,
    load_orbax,
    load_tokenizer,
    save_orbax,
)

IMAGES = jnp.asarray(draw_images())
NAMES = ("cat", "dog", "bird", "fish", "tree")


def named_vim() -> Vim:
    model = tiny_vim()
    model.config = dataclasses.replace(model.config, class_names=NAMES)
    return model


def test_conversion_there_and_back_is_what_it_was(tmp_path):
    state = definition.random_state()
    file = write_pth(tmp_path / "vim.pth", state)
    logits = Vim.from_pretrained(file)(IMAGES)
    found = convert(file, tmp_path / "orbax")
    assert (found.layout, found.format, found.num_layers) == ("vim", "orbax", 2)
    assert found.dtype == "float32" and found.source_bytes == file.stat().st_size
    assert found.num_parameters == sum(value.size for value in state.values())
    np.testing.assert_array_equal(
        Vim.from_pretrained(tmp_path / "orbax")(IMAGES), logits
    )
    found = convert(tmp_path / "orbax", tmp_path / "back", format="hf")
    assert (found.layout, found.format) == ("orbax", "hf")
    written = load_file(tmp_path / "back" / "model.safetensors")
    assert set(written) == set(state)
    for key, value in state.items():
        np.testing.assert_array_equal(written[key], value)
    np.testing.assert_array_equal(
        Vim.from_pretrained(tmp_path / "back")(IMAGES), logits
    )


def test_moving_average_is_converted_on_request(tmp_path):
    average = definition.random_state(seed=5)
    file = write_pth(tmp_path / "vim.pth", model_ema=average)
    assert run(file, tmp_path / "out", "--part", "model_ema").exit_code == 0
    head = Vim.from_pretrained(tmp_path / "out").head.kernel[...]
    np.testing.assert_array_equal(head.T, average["head.weight"])
    with pytest.raises(ValueError, match="part must be model or model_ema, but is 'e"):
        convert(file, tmp_path / "other", part="ema")
    random_text_model(layers=1).save_pretrained(tmp_path / "text")
    with pytest.raises(
        CheckpointError, match="is a MambaLM, which has no training che"
    ):
        convert(tmp_path / "text", tmp_path / "other", part="model_ema")
    assert not (tmp_path / "other").exists()


def test_folders_of_pth_files_are_converted(tmp_path):
    (tmp_path / "source").mkdir()
    write_pth(tmp_path / "source" / "vim.pth")
    result = run(tmp_path / "source", tmp_path / "out", "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert "(vim)" in result.stdout and "bfloat16" in result.stdout
    auto = Vim.from_pretrained(tmp_path / "out", dtype="auto")
    assert auto.dtype == jnp.bfloat16 and auto.norm_f.scale[...].dtype == jnp.bfloat16
    assert Vim.from_pretrained(tmp_path / "out").dtype == jnp.float32


def test_orbax_holds_names_of_classes_and_takes_changes(tmp_path):
    save_orbax(named_vim(), tmp_path / "orbax")
    raw = json.loads((tmp_path / "orbax" / "config.json").read_text())
    assert raw["id2label"] == dict(zip("01234", NAMES, strict=True))
    found = load_orbax(tmp_path / "orbax")
    assert isinstance(found, Vim) and found.config.class_names == NAMES
    for mine, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(named_vim()), strict=True
    ):
        np.testing.assert_array_equal(mine, other)
    halved = Vim.from_pretrained(tmp_path / "orbax", changes={"divide_out": False})
    assert not halved.config.divide_out
    with pytest.raises(CheckpointError, match="plain weights and no 'model_ema'"):
        Vim.from_pretrained(tmp_path / "orbax", part="model_ema")


def test_saved_names_come_back(tmp_path):
    named_vim().save_pretrained(tmp_path / "vim")
    assert Vim.from_pretrained(tmp_path / "vim").config == named_vim().config


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ({"0": "cat"}, "1 class_names for 5 classes; give one for each, or none"),
        ({"1": "cat"}, '"id2label" must map "0", "1", ... to the names'),
        (["cat"], '"id2label" must map'),
    ],
)
def test_names_that_do_not_fit_are_said(labels, match, tmp_path):
    tiny_vim().save_pretrained(tmp_path / "vim")
    file = tmp_path / "vim" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"id2label": labels}))
    with pytest.raises(CheckpointError, match=match):
        Vim.from_pretrained(tmp_path / "vim")
    with pytest.raises(ValueError, match="2 class_names for 3 classes"):
        VimConfig(d_model=8, num_classes=3, class_names=("a", "b"))


def test_mistakes_are_said_and_leave_nothing(tmp_path):
    file = write_pth(tmp_path / "vim.pth")
    with pytest.raises(
        CheckpointError, match="is a Vision Mamba, which transformers c"
    ):
        convert(file, tmp_path / "out", verify=True)
    with pytest.raises(ValueError, match="tokenizer='bytes': a Vim reads im"):
        tiny_vim().save_pretrained(tmp_path / "out", tokenizer="bytes")
    with pytest.raises(ValueError, match="reads images and has no tokenizer"):
        save_orbax(tiny_vim(), tmp_path / "out", tokenizer="bytes")
    tiny_vim().save_pretrained(tmp_path / "vim")
    with pytest.raises(CheckpointError, match="has no tokenizer: type jmamba explain"):
        load_tokenizer(tmp_path / "vim")
    (tmp_path / "notes").mkdir()
    with pytest.raises(CheckpointError, match="holds no config.json"):
        convert(tmp_path / "notes", tmp_path / "out")
    torch = pytest.importorskip("torch")
    torch.save({"backbone.norm_f.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="A language model is a folder with its"):
        convert(tmp_path / "other.pth", tmp_path / "out")
    file.write_bytes(file.read_bytes()[:-1000])
    assert "cut short" in " ".join(run(file, tmp_path / "out").stderr.split())
    assert not (tmp_path / "out").exists()


def test_damaged_orbax_is_said(tmp_path):
    save_orbax(tiny_vim(), tmp_path / "orbax")
    with pytest.raises(CheckpointError, match=r"Vim\.from_pretrained"):
        MambaLM.from_pretrained(tmp_path / "orbax")
    file = tmp_path / "orbax" / "config.json"
    raw = json.loads(file.read_text())
    file.write_text(json.dumps(raw | {"d_model": 16}))
    with pytest.raises(CheckpointError, match="of another shape"):
        Vim.from_pretrained(tmp_path / "orbax")
    file.write_text(json.dumps(raw))
    for part in (tmp_path / "orbax" / "parameters").rglob("*"):
        if part.is_file():
            part.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no complete Orbax checkpoint"):
        Vim.from_pretrained(tmp_path / "orbax")
