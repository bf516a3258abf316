"""Checkpoints of models with definite gates and of those that sort their tokens."""

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import relative_error
from refined_models import draw_tokens, image_model, text_model

from jmamba import MambaLM, Vim
from jmamba.checkpoints import (
    CheckpointError,
    convert,
    load_orbax,
    save_orbax,
)
from jmamba.models.skeleton import parameters_of
from jmamba.surgery import as_free

TEXTS: dict[str, Any] = {
    "neg": {"definite": "neg", "definite_threshold": 0.25},
    "mixed": {"definite": "mixed", "equal_magnitudes": True, "mixer_rms_eps": 1e-6},
    "psd_general": {"definite": "psd_general", "dtype": "bfloat16"},
}
IMAGES: dict[str, Any] = {
    "definite": {"definite": "pos"},
    "sorting": {
        "reorder": "corrected",
        "reorder_layers": (0, 2),
        "reorder_tau": 0.5,
        "reorder_normalise": True,
        "definite": "nsd_general",
    },
    "shuffled": {"reorder": "official", "reorder_by": "random", "reorder_seed": 7},
}


def assert_same(model, other):
    assert model.config == other.config
    mine, others = parameters_of(model), parameters_of(other)
    assert mine.keys() == others.keys()
    for path, value in mine.items():
        assert value.dtype == others[path].dtype, path
        np.testing.assert_array_equal(value, others[path])


def change_config(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize("kind", TEXTS)
def test_definite_models_come_back(kind, tmp_path):
    model = text_model(**TEXTS[kind])
    model.save_pretrained(tmp_path / "hf", tokenizer="bytes")
    assert_same(MambaLM.from_pretrained(tmp_path / "hf", dtype="auto"), model)


def test_definite_models_come_back_from_orbax(tmp_path):
    model = text_model(**TEXTS["neg"])
    save_orbax(model, tmp_path / "orbax")
    assert_same(load_orbax(tmp_path / "orbax"), model)
    change_config(tmp_path / "orbax", definite="free", definite_threshold=None)
    with pytest.raises(CheckpointError, match="those of definite gates: config.json"):
        load_orbax(tmp_path / "orbax")


@pytest.mark.parametrize("kind", IMAGES)
def test_refined_image_models_come_back(kind, tmp_path):
    model = image_model(**IMAGES[kind])
    model.save_pretrained(tmp_path / "vim")
    assert_same(Vim.from_pretrained(tmp_path / "vim"), model)


def test_free_weights_do_not_load_as_definite_ones(tmp_path):
    text_model().save_pretrained(tmp_path / "free")
    change_config(tmp_path / "free", definite="pos")
    expected = (
        r"asks for 'pos' .*\.project_from_pretrained\(model, 'pos'\), which makes"
    )
    with pytest.raises(CheckpointError, match=expected):
        MambaLM.from_pretrained(tmp_path / "free")
    image_model().save_pretrained(tmp_path / "vim")
    with pytest.raises(CheckpointError, match=expected):
        Vim.from_pretrained(tmp_path / "vim", changes={"definite": "pos"})
    with pytest.raises(CheckpointError, match="missing: sorting.*trained without imp"):
        Vim.from_pretrained(tmp_path / "vim", changes={"reorder": "official"})
    image_model(reorder="official").save_pretrained(tmp_path / "sorting")
    with pytest.raises(
        CheckpointError, match='of a model that sorts .* write "reorder"'
    ):
        Vim.from_pretrained(tmp_path / "sorting", changes={"reorder": "none"})
    save_orbax(text_model(), tmp_path / "orbax")
    change_config(tmp_path / "orbax", definite="pos")
    with pytest.raises(CheckpointError, match=expected):
        load_orbax(tmp_path / "orbax")
    change_config(tmp_path / "free", definite="odd")
    with pytest.raises(CheckpointError, match="definite='odd': give one of free, pos"):
        MambaLM.from_pretrained(tmp_path / "free")


def test_conversion_keeps_definite_gates_or_writes_them_out(tmp_path):
    model = text_model(**TEXTS["neg"])
    model.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "orbax")
    assert_same(MambaLM.from_pretrained(tmp_path / "orbax"), model)
    convert(tmp_path / "orbax", tmp_path / "free", format="hf", free=True)
    assert_same(MambaLM.from_pretrained(tmp_path / "free"), as_free(model))
    convert(tmp_path / "source", tmp_path / "half", format="hf", dtype="bfloat16")
    half = parameters_of(MambaLM.from_pretrained(tmp_path / "half", dtype="auto"))
    gates = {path[-1]: value.dtype for path, value in half.items() if "gates" in path}
    assert gates == {"P": jnp.bfloat16, "v": jnp.float32}
    (tmp_path / "source" / "SHA256SUMS").unlink()
    with pytest.raises(
        CheckpointError, match="definite gates, which transformers cann"
    ):
        convert(tmp_path / "source", tmp_path / "none", verify=True)


def test_transformers_loads_what_was_written_out_and_nothing_else(tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from checkpoint_samples import torch_logits

    model, tokens = text_model(**TEXTS["neg"]), draw_tokens()
    as_free(model).save_pretrained(tmp_path / "free")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "free").eval()
    logits = torch_logits(theirs, np.asarray(tokens, np.int64))
    assert relative_error(model(tokens).logits, logits) < 1e-5
    model.save_pretrained(tmp_path / "definite")
    with pytest.raises(RuntimeError, match="size mismatch|mismatched"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "definite")
