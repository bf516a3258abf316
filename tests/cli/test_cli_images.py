import json
import warnings

import numpy as np
import pytest
from flax import nnx
from PIL import Image
from test_cli import RUN, mistake, run
from vision_definition import tiny_vim

import jmamba
from jmamba.checkpoints import CheckpointError
from jmamba.cli import app
from jmamba.embedded import EmbeddedVim, images, load_embedded_vim
from jmamba.models.vim.images import preprocessing_of

VIM = tiny_vim()
QUICK = ("--crop", "--no-matrices")
ATTENTION = ("--method", "mamba_attribution")


@pytest.fixture(autouse=True)
def embedded(monkeypatch, tmp_path):
    """Use tiny models, and write where nothing else is."""

    def load(*, dtype=None):
        return EmbeddedVim(VIM, (), preprocessing_of(VIM.config))

    def load_text(*, dtype=None):
        raise ValueError("this is a text")

    monkeypatch.setattr("jmamba.embedded.images.load_embedded_vim", load)
    monkeypatch.setattr("jmamba.embedded.text.load_embedded", load_text)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (16, 12), "green").save("a picture.PNG")


def test_explain_prints_and_writes(tmp_path):
    result = run("explain", "a picture.PNG", "--method", "mamba_lrp", "--target", 3,
                 "--crop")  # fmt: skip
    assert result.exit_code == 0, result.output
    out = tmp_path / "jmamba-out"
    assert result.stdout.splitlines()[-1] == str(out / "index.html")
    assert "Likeliest classes" in result.stdout
    read = "read its middle, 12 x 12 pixels from (2, 0) on, as 12 x 12 pixels"
    said = " ".join(result.stdout.split())
    assert f"a picture.PNG, 16 x 12 pixels, {read}" in said
    assert "Explained by mamba lrp: class 3" in result.stdout
    assert "hidden attention" in result.stderr  # the stages
    summary = json.loads((out / "summary.json").read_text())
    assert summary["model"] == "embedded Vision Mamba"
    assert summary["method"] == "mamba_lrp" and summary["target"]["id"] == 3
    assert len(summary["predictions"]) == 5 and "versions" in summary["environment"]
    with np.load(out / "arrays.npz") as arrays:
        assert arrays["mamba_lrp"].shape == (12, 16)
        assert set(arrays) == set(summary["arrays"])
    assert set(summary["files"]) == {path.name for path in out.iterdir()}


def test_explain_takes_any_file_as_an_image(tmp_path):
    (tmp_path / "a picture.PNG").rename(tmp_path / "data")
    assert "this is a text" in mistake("explain", "data")
    result = run("explain", "--image", "data", "--out", "one", "--top", 2, *QUICK)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert len(summary["predictions"]) == 2


def test_checkpoints_explain_what_they_read(tmp_path):
    VIM.save_pretrained(tmp_path / "vim")
    config = jmamba.MambaConfig(vocab_size=256, d_model=8, num_layers=1)
    text_model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
    text_model.save_pretrained(tmp_path / "text", tokenizer="bytes")
    result = run("explain", "a picture.PNG", "--model", "vim", *QUICK)
    assert result.exit_code == 0, result.output
    said = mistake("explain", "some text", "--model", "vim")
    assert "is a Vim, which reads images" in said
    said = mistake("explain", "a picture.PNG", "--model", "text", "--out", "two")
    assert "not a Vim" in said
    weights = tmp_path / "vim" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    said = mistake("explain", "a picture.PNG", "--model", "vim", "--out", "two")
    assert "is cut short or no safetensors file" in said


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["missing.png"], "There is no picture 'missing.png'; check the name. If it"),
        (["my dog.png"], "give it as standard input: echo 'my dog.png' | jmamba expl"),
        (["holiday 2024/my dog.TIFF "], "There is no picture 'holiday 2024/my dog.TIF"),
        (["I saved it as cat.png"], "There is no picture 'I saved it as cat.png'"),
        (["--image", "missing"], "There is no picture missing; check the name."),
        (["notes.jpg"], "notes.jpg cannot be read as a picture"),
        (["cut.png"], "cut.png cannot be read as a picture"),
        (["--image", "."], "is a folder, not a file that can be read"),
        (["text", "--image", "a picture.PNG"], "a text or a picture, not both 'text'"),
        (["a picture.PNG", "--method", "magic"], "Unknown method 'magic'"),
        (
            ["a picture.PNG", *ATTENTION, "--settings", "magic"],
            "Unknown settings 'magic'",
        ),
        (["a picture.PNG", "--target", "9"], "There is no class 9"),
        (["a picture.PNG", "--target", "dog"], "config.json names none"),
        (["a picture.PNG", "--layers", "7"], "layers 0 to 1"),
        (["a picture.PNG", "--revision", "main"], "name it by --model"),
        (["a picture.PNG", "--model", "x/missing/y"], "neither a folder here"),
        (["a picture.PNG", "--max-tokens", 9, "--no-jacobian"],
         "--jacobian, --max-tokens: only for texts, but this is an image."),
        (["a picture.PNG", "--against", "9"], "There is no class 9"),
        (["a text", "--target", 1, "--all-methods", "--crop", "--method", "mamba_lrp"],
         "--crop: only for images, but this is a text."),
    ],
)  # fmt: skip
def test_mistakes_exit_with_2(args, message, tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture")
    whole = (tmp_path / "a picture.PNG").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    before = set(tmp_path.iterdir())
    assert message in mistake("explain", *args)
    assert set(tmp_path.iterdir()) == before


def test_pictures_are_read_whole(tmp_path):
    result = run("explain", "a picture.PNG", "--method", "raw_attention",
                 "--no-matrices")  # fmt: skip
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert "16 x 12 pixels, read whole, as 16 x 12 pixels" in said
    made = json.loads((tmp_path / "jmamba-out" / "summary.json").read_text())
    assert made["read_as"] == {"height": 12, "width": 16, "patch": 4, "stride": 4}
    assert made["seen"] == {"top": 0, "left": 0, "height": 12, "width": 16}


def test_dynamics_of_a_picture_are_refused():
    said = mistake("dynamics", "a picture.PNG")
    assert "'a picture.PNG' is the name of a picture, but this command reads" in said


def test_ranges_of_deep_pictures_are_noted_once(tmp_path):
    levels = np.linspace(0, 4095, 256).reshape(16, 16).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.tiff")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = run("explain", "deep.tiff", *QUICK)
    assert result.exit_code == 0, result.output
    said = "Note: deep.tiff holds numbers from 0 to 4095, of which 0 is taken for black"
    assert " ".join(result.stderr.split()).count(said) == 1


def test_help_names_methods_and_settings():
    text = " ".join(RUN.invoke(app, ["explain", "--help"]).stdout.split())
    for word in ("TEXT|IMAGE", "Options for texts", "--target"):
        assert word in text


def test_embedded_folder_without_a_model_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(images, "VIM_FOLDER", tmp_path / "vim")
    with pytest.raises(CheckpointError, match="neither a folder here nor a Hub id"):
        load_embedded_vim()
    VIM.save_pretrained(tmp_path / "vim")
    found = load_embedded_vim()
    assert found.class_names == () and found.preprocessing == {"crop": 12, "resize": 12}
    assert found.model.config == VIM.config
