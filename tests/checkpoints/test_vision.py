"""Vision Mamba's checkpoints, and the model against its equations in float64."""

import argparse
import json
import math
import os
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import vision_definition as definition
from helpers import assert_close
from safetensors.numpy import load_file, save_file
from test_hub import hub  # noqa: F401  (a fixture)
from vision_definition import draw_images

from jmamba import MambaLM, Vim, VimConfig, trace
from jmamba.checkpoints import CheckpointError
from jmamba.models.skeleton import make_skeleton, slots_of
from jmamba.models.vim.layout import infer_config
from jmamba_kernels.versions import enable_x64

torch = pytest.importorskip("torch")

PLACES = {"first": 0, "middle": 4, "last": 9, 2: 2, "none": None}


def write_pth(file, state=None, *, args=None, **more):
    """Write a training checkpoint as Vim's authors do."""
    state = definition.random_state() if state is None else state
    parts = {"model": state} | more
    content: dict[str, Any] = {
        part: {key: torch.from_numpy(value) for key, value in tensors.items()}
        for part, tensors in parts.items()
    }
    content |= {"epoch": 299, "optimizer": {"state": {0: {"step": torch.zeros(())}}}}
    content["args"] = args or argparse.Namespace(
        model="vim_tiny_midclstok_div2", input_size=12, lr=1e-3
    )
    torch.save(content, file)
    return file


def write_folder(folder, state, **fields):
    """Write a folder with config.json, as `save_pretrained` does."""
    folder.mkdir()
    sizes = {"d_model": 8, "num_layers": 2, "num_classes": 5, "image_size": 12}
    sizes |= {"patch_size": 4, "d_state": 3, "dt_rank": 2, "model_type": "vim"}
    (folder / "config.json").write_text(json.dumps(sizes | fields))
    save_file(state, folder / "model.safetensors")
    return folder


# The model against its definition -----------------------------------------------------


@pytest.mark.parametrize("class_token", PLACES)
@pytest.mark.parametrize("flag", ["if_divide_out", "if_devide_out"])
def test_vim_equals_its_equations(class_token, flag, tmp_path):
    place, divide = PLACES[class_token], flag == "if_divide_out" or class_token != 2
    places = 9 if place is None else 10
    state = definition.random_state(places=places, class_token=place is not None)
    folder = write_folder(
        tmp_path / "vim", state, class_token=class_token, **{flag: divide}
    )
    images = draw_images()
    expected = definition.run(state, images, stride=4, place=place, divide=divide)
    model = Vim.from_pretrained(folder)
    t = trace(model, jnp.asarray(images))
    assert_close(model(jnp.asarray(images)), expected.logits, 1e-5)
    assert_close(t.logits, expected.logits, 1e-5)
    stream = [*t.residual_in, t.residual_out[-1]]
    for mine, other in zip(stream, expected.hidden, strict=True):
        assert_close(mine, other, 1e-5)


def test_vim_in_float64_equals_its_equations(tmp_path):
    state = definition.random_state(seed=3, d=12, n=5, r=3, k=3, layers=3)
    expected = definition.run(state, draw_images(), stride=4, place=4)
    with enable_x64():
        model = Vim.from_pretrained(
            write_pth(tmp_path / "vim.pth", state), dtype="float64"
        )
        assert_close(
            model(jnp.asarray(draw_images(), jnp.float64)), expected.logits, 1e-12
        )


def test_vim_with_overlapping_patches_equals_its_equations(tmp_path):
    state = definition.random_state(places=26)  # 5 x 5 patches of side 4, 2 apart
    file = write_pth(tmp_path / "vim.pth", state)
    model = Vim.from_pretrained(file)
    assert model.config.stride == 2 and model.config.class_position() == 12
    expected = definition.run(state, draw_images(), stride=2, place=12)
    assert_close(model(jnp.asarray(draw_images())), expected.logits, 1e-5)


def test_other_resolutions_take_bicubic_places(tmp_path):
    state = definition.random_state()
    model = Vim.from_pretrained(write_pth(tmp_path / "vim.pth", state))
    images = draw_images(20, 16)  # 5 x 4 patches for 3 x 3 places
    grid = torch.from_numpy(np.delete(state["pos_embed"][0], 4, axis=0))
    grid = grid.reshape(1, 3, 3, -1).permute(0, 3, 1, 2).double()
    resized = torch.nn.functional.interpolate(grid, size=(5, 4), mode="bicubic")
    rows = resized[0].permute(1, 2, 0).reshape(20, -1).numpy()
    places = np.insert(rows, 10, state["pos_embed"][0, 4], axis=0)
    expected = definition.run(
        state | {"pos_embed": places[None]}, images, stride=4, place=10
    )
    assert_close(model(jnp.asarray(images)), expected.logits, 1e-5)
    assert_close(model.positions(5, 4), places, 1e-6)


# Files --------------------------------------------------------------------------------


def test_saved_vim_has_the_authors_names_and_comes_back(tmp_path):
    state = definition.random_state()
    model = Vim.from_pretrained(write_pth(tmp_path / "vim.pth", state))
    model.save_pretrained(tmp_path / "saved")
    written = load_file(tmp_path / "saved" / "model.safetensors")
    assert set(written) == set(state)
    for key, value in state.items():
        np.testing.assert_array_equal(written[key], value)
    back = Vim.from_pretrained(tmp_path / "saved")
    assert back.config == model.config
    images = jnp.asarray(draw_images())
    np.testing.assert_array_equal(back(images), model(images))
    with pytest.raises(CheckpointError, match="exists already"):
        model.save_pretrained(tmp_path / "saved")


def test_moving_average_is_read_on_request(tmp_path):
    state, average = definition.random_state(), definition.random_state(seed=5)
    file = write_pth(tmp_path / "vim.pth", state, model_ema=average)
    for part, weights in {"model": state, "model_ema": average}.items():
        head = Vim.from_pretrained(file, part=part).head.kernel[...]
        np.testing.assert_array_equal(head.T, weights["head.weight"])
    with pytest.raises(ValueError, match="part must be model or model_ema"):
        Vim.from_pretrained(file, part="ema")
    plain = write_pth(tmp_path / "plain.pth", state)
    with pytest.raises(
        CheckpointError, match="holds no 'model_ema'; it holds model, e"
    ):
        Vim.from_pretrained(plain, part="model_ema")
    torch.save({k: torch.from_numpy(v) for k, v in state.items()}, plain)
    assert (
        Vim.from_pretrained(tmp_path / "plain.pth").config.num_layers == 2
    )  # a bare state dict
    with pytest.raises(CheckpointError, match="plain weights and no 'model_ema'"):
        Vim.from_pretrained(plain, part="model_ema")


@pytest.mark.parametrize("flag", ["if_divide_out", "if_devide_out"])
@pytest.mark.parametrize("value", [True, False])
def test_arguments_tell_the_divide_flag(flag, value, tmp_path):
    args = argparse.Namespace(model="x_midclstok", input_size=12, **{flag: value})
    file = write_pth(tmp_path / "vim.pth", args=args)
    assert Vim.from_pretrained(file).config.divide_out is value
    assert (
        Vim.from_pretrained(file, changes={"divide_out": not value}).config.divide_out
        != value
    )


def test_vim_comes_from_the_hub(hub, tmp_path):  # noqa: F811
    folder = tmp_path / "published"
    folder.mkdir()
    write_pth(folder / "vim_t_midclstok_76p1acc.pth")
    write_pth(folder / "other.pth", definition.random_state(classes=7))
    hub.publish("org/vim", folder)
    assert Vim.from_pretrained("org/vim").config.num_classes == 5
    assert Vim.from_pretrained("org/vim", filename="other.pth").config.num_classes == 7
    Vim.from_pretrained(folder / "other.pth").save_pretrained(tmp_path / "saved")
    hub.publish("org/saved", tmp_path / "saved")
    assert Vim.from_pretrained("org/saved").config.num_classes == 7
    (folder / "vim_t_midclstok_76p1acc.pth").unlink()
    hub.publish("org/none", tmp_path)
    with pytest.raises(
        CheckpointError, match="has no config.json, and no file that was rel"
    ):
        Vim.from_pretrained("org/none")


class Harmful:
    """Runs a command when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / "ran"),)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    args = argparse.Namespace(model="x_midclstok", evil=Harmful(tmp_path))
    file = write_pth(tmp_path / "vim.pth", args=args)
    with pytest.raises(CheckpointError, match="more than tensors, perhaps code"):
        Vim.from_pretrained(file)
    assert not (tmp_path / "ran").exists()
    torch.load(file, weights_only=False)
    assert (tmp_path / "ran").exists()  # it would have


def test_namespaces_stay_refused_elsewhere(tmp_path):
    write_pth(tmp_path / "vim.pth")
    Vim.from_pretrained(tmp_path / "vim.pth")
    with pytest.raises(Exception, match="argparse.Namespace"):
        torch.load(tmp_path / "vim.pth", weights_only=True)


def change(state, **changes):
    """Return a state dict with entries changed, or removed for None."""
    state = state | {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"patch_embed__proj__weight": None}, "no checkpoint of a Vision Mamba"),
        ({"layers__1__mixer__D_b": None}, r"missing: layers.1.mixer.D_b\. Only bidir"),
        ({"extra": np.zeros(2)}, "not part of the model: extra"),
        (
            {"norm_f__weight": np.zeros(3, np.float32)},
            r"norm_f.weight is \(3,\), needs",
        ),
        ({"pos_embed": np.zeros((1, 12, 8))}, "11 patches, which make no square"),
        ({"pos_embed": np.zeros((1, 290, 8))}, "17 x 17 patches of side 4"),
        ({"norm_f__weight": np.full(8, np.nan, np.float32)}, "not finite: norm_f.w"),
    ],
)
def test_tensors_that_do_not_fit_are_said(changes, match, tmp_path):
    state = change(definition.random_state(), **changes)
    file = write_pth(tmp_path / "vim.pth", state)
    with pytest.raises(CheckpointError, match=match) as error:
        Vim.from_pretrained(file)
    assert "\n" not in str(error.value)


def test_other_mistakes_are_said(tmp_path):
    file = write_pth(tmp_path / "vim.pth")
    args = argparse.Namespace(model="vim_tiny", input_size=12)
    unnamed = write_pth(tmp_path / "unnamed.pth", args=args)
    with pytest.raises(CheckpointError, match='give changes={"class_token": "middle"}'):
        Vim.from_pretrained(unnamed)
    first = Vim.from_pretrained(unnamed, changes={"class_token": "first"})
    assert first.config.class_position() == 0
    with pytest.raises(CheckpointError, match="is no place among 9 patches"):
        Vim.from_pretrained(file, changes={"class_token": 10})
    (tmp_path / "picture.png").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is no weight file; give one that ends"):
        Vim.from_pretrained(tmp_path / "picture.png")
    with pytest.raises(CheckpointError, match="There is no file .*missing.pth"):
        Vim.from_pretrained(tmp_path, filename="missing.pth")
    with pytest.raises(CheckpointError, match="neither a folder here nor a Hub id"):
        Vim.from_pretrained(tmp_path / "nothing")
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="cut short or no PyTorch file"):
        Vim.from_pretrained(file)


def test_language_models_and_images_are_told_apart(tmp_path):
    Vim.from_pretrained(write_pth(tmp_path / "vim.pth")).save_pretrained(
        tmp_path / "vim"
    )
    with pytest.raises(CheckpointError, match=r"Vim\.from_pretrained"):
        MambaLM.from_pretrained(tmp_path / "vim")
    raw = {"model_type": "mamba"}
    (tmp_path / "vim" / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=r"load with MambaLM\.from_pretrained"):
        Vim.from_pretrained(tmp_path / "vim")


@pytest.mark.parametrize(
    ("name", "stride", "count"),
    [
        ("vim-tiny", 16, 7_148_008),
        ("vim-small", 16, 25_796_584),
        ("vim-base", 16, 97_598_440),
        ("vim-tiny", 8, 7_250_344),
        ("vim-base", 8, 98_007_784),
    ],
)
def test_released_shapes_have_the_published_size(name, stride, count):
    config = VimConfig.named(name, stride=stride)
    skeleton = make_skeleton(config, dtype=jnp.float32, param_dtype=jnp.float32)
    assert sum(map(math.prod, skeleton.shapes.values())) == count
    table = slots_of(config, skeleton.parameters)
    shapes = {key: slot.shape for key, slot in table.items()}
    assert shapes["layers.23.mixer.conv1d_b.weight"] == (config.d_inner, 1, 4)
    assert infer_config(shapes, None, "here") == config
