"""Names of tensors that trainers and wrappers change: the model is the same."""

import json
import logging

import numpy as np
import pytest
from checkpoint_samples import (
    edit_config,
    jax_logits,
    random_tokens,
    torch,
    torch_logits,
    torch_model,
    transformers,
    write_bin,
    write_hf,
    write_json,
    write_original,
)
from safetensors.torch import save_file
from test_vision import definition, write_pth

from jmamba import MambaLM, Vim
from jmamba.checkpoints import CheckpointError, convert
from jmamba.models.skeleton import parameters_of

MODELS = {
    "mamba": torch_model(),
    "biased": torch_model(seed=1, use_bias=True, conv_kernel=3, expand=3),
    "falcon": torch_model("falcon_mamba", seed=2, num_hidden_layers=3),
    "untied": torch_model("falcon_mamba", seed=3, tie_word_embeddings=False),
}
TIED = ["mamba", "biased", "falcon"]


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


def write_state(folder, model, state):
    """Write a folder whose model.safetensors holds other tensors."""
    write_hf(folder, model)
    state = {key: value.clone().contiguous() for key, value in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def assert_loads(folder, model, caplog, *said) -> None:
    """Assert that a folder is the model, and that one line of the log says why so."""
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="jmamba"):
        found = MambaLM.from_pretrained(folder)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == bool(said), lines
    assert all(part in lines[0] for part in said), lines
    tokens = random_tokens(vocab=model.config.vocab_size)
    expected = torch_logits(model, tokens)
    scale = np.abs(expected).max()
    assert np.abs(jax_logits(found, tokens) - expected).max() < 1e-5 * scale


def test_usual_names_are_not_spoken_of(model, tmp_path, caplog):
    assert_loads(write_hf(tmp_path / "model", model), model, caplog)


@pytest.mark.parametrize("name", TIED)
def test_model_without_its_head_is_loaded(name, tmp_path, caplog):
    MODELS[name].backbone.save_pretrained(tmp_path / "bare")
    said = 'names lack "backbone.", as those of a model without its head'
    assert_loads(tmp_path / "bare", MODELS[name], caplog, said)


def test_bare_model_of_the_original_code_is_loaded(tmp_path, caplog):
    folder = write_original(tmp_path / "model")
    state = torch.load(folder / "pytorch_model.bin")
    del state["lm_head.weight"]
    bare = {key.removeprefix("backbone."): value for key, value in state.items()}
    torch.save(bare, folder / "pytorch_model.bin")
    assert_loads(folder, torch_model(), caplog, 'names lack "backbone."')


def test_head_that_is_needed_and_not_there_is_said(tmp_path):
    MODELS["untied"].backbone.save_pretrained(tmp_path / "bare")
    with pytest.raises(CheckpointError, match="missing: lm_head.weight") as error:
        MambaLM.from_pretrained(tmp_path / "bare")
    assert "no head, as those of a MambaModel or FalconMambaModel" in str(error.value)
    assert '"tie_word_embeddings": true' in str(error.value)
    edit_config(tmp_path / "bare", tie_word_embeddings=True)
    assert MambaLM.from_pretrained(tmp_path / "bare").lm_head is None


@pytest.mark.parametrize("name", TIED)
def test_tied_head_may_be_stored_alone(name, tmp_path, caplog):
    state = dict(MODELS[name].state_dict())
    del state["backbone.embeddings.weight"]
    folder = write_state(tmp_path / "model", MODELS[name], state)
    theirs = type(MODELS[name]).from_pretrained(folder).eval()
    np.testing.assert_array_equal(torch_logits(theirs), torch_logits(MODELS[name]))
    assert_loads(folder, MODELS[name], caplog, "lm_head.weight stands for what it is")


@pytest.mark.parametrize(
    "prefix",
    ["model.", "module.", "_orig_mod.", "base_model.model.", "module._orig_mod.",
     "_orig_mod.module.", "model.module.", "student."],
)  # fmt: skip
def test_prefix_is_left_out_and_named(prefix, model, tmp_path, caplog):
    state = {prefix + key: value for key, value in model.state_dict().items()}
    folder = write_state(tmp_path / "model", model, state)
    left = prefix.replace("_orig_mod.", "")
    said = [f'names have the prefix "{left}"'] if left else []
    said += ["names contain _orig_mod"] if "_orig_mod" in prefix else []
    assert_loads(folder, model, caplog, *said)


def test_prefix_in_shards_and_in_the_original_layout(tmp_path, caplog):
    folder = write_bin(tmp_path / "shards", shards=3)
    index = json.loads((folder / "pytorch_model.bin.index.json").read_text())
    renamed = {f"module.{k}": file for k, file in index["weight_map"].items()}
    write_json(folder / "pytorch_model.bin.index.json", {"weight_map": renamed})
    original = write_original(tmp_path / "original")
    for file in (*folder.glob("*.bin"), original / "pytorch_model.bin"):
        torch.save({f"module.{k}": v for k, v in torch.load(file).items()}, file)
    for place in (folder, original):
        assert_loads(place, torch_model(), caplog, 'names have the prefix "module."')


@pytest.mark.parametrize("name", TIED)
def test_prefix_of_a_model_without_its_head(name, tmp_path, caplog):
    bare = MODELS[name].backbone.state_dict()
    state = {f"module.{key}": value for key, value in bare.items()}
    folder = write_state(tmp_path / "model", MODELS[name], state)
    said = ['the prefix "module."', 'lack "backbone."']
    assert_loads(folder, MODELS[name], caplog, *said)


def test_wrappers_inside_of_names_are_left_out(model, tmp_path, caplog):
    state = {
        key.replace(".mixer.", "._orig_mod.mixer._checkpoint_wrapped_module."): value
        for key, value in model.state_dict().items()
    }
    folder = write_state(tmp_path / "model", model, state)
    assert_loads(folder, model, caplog, "contain _checkpoint_wrapped_module, _orig_mod")


def test_head_may_have_another_prefix_than_the_rest(tmp_path, caplog):
    model = MODELS["untied"]
    bare, head = model.backbone.state_dict(), model.state_dict()["lm_head.weight"]
    cases = {
        "": 'some names have the prefix "encoder."',
        "net.": 'names have the prefix "net." or "net.encoder."',
    }
    for outer, said in cases.items():
        state = {f"{outer}encoder.{key}": value for key, value in bare.items()}
        state[f"{outer}lm_head.weight"] = head
        folder = write_state(tmp_path / f"model{outer}", model, state)
        assert_loads(folder, model, caplog, said, 'lack "backbone."')


def test_head_of_another_model_is_not_taken(tmp_path):
    model = MODELS["untied"]
    state = dict(model.state_dict())
    state["draft.lm_head.weight"] = state.pop("lm_head.weight")
    folder = write_state(tmp_path / "model", model, state)
    with pytest.raises(
        CheckpointError, match="missing: lm_head.weight; not part of th"
    ):
        MambaLM.from_pretrained(folder)


def test_numbers_that_are_no_weights_are_left_out(model, tmp_path, caplog):
    extra = {
        "backbone.step": torch.tensor(3),
        "backbone.layers.0.seen": torch.ones(2).bool(),
    }
    folder = write_state(tmp_path / "model", model, model.state_dict() | extra)
    said = "left out, being no weights: backbone.layers.0.seen, backbone.step"
    assert_loads(folder, model, caplog, said)


def test_packed_weights_are_said_to_be_quantised(tmp_path):
    state = dict(torch_model().state_dict())
    del state["backbone.layers.0.mixer.in_proj.weight"]
    state["backbone.layers.0.mixer.in_proj.qweight"] = torch.ones(2, 2).int()
    folder = write_state(tmp_path / "model", torch_model(), state)
    with pytest.raises(CheckpointError, match=r"in_proj.qweight \(I32\).*Quantised"):
        MambaLM.from_pretrained(folder)


@pytest.mark.parametrize(
    "path", [("state_dict",), ("model",), ("module",), ("model", "state_dict")]
)
def test_weights_inside_of_a_training_checkpoint_are_found(
    path, model, tmp_path, caplog
):
    folder = write_bin(tmp_path / "model", model)
    content = {f"model.{key}": value for key, value in model.state_dict().items()}
    for name in reversed(path):
        content = {name: content, "epoch": 3, "optimizer": {"lr": [0.1]}}
    torch.save(content, folder / "pytorch_model.bin")
    said = [f'the weights are under "{"/".join(path)}"', 'prefix "model."']
    assert_loads(folder, model, caplog, *said)


def test_plain_values_beside_tensors_are_left_out(tmp_path, caplog):
    folder = write_bin(tmp_path / "model")
    state = dict(torch_model().state_dict()) | {"epoch": 3, "name": "run", "ema": None}
    torch.save(state, folder / "pytorch_model.bin")
    assert_loads(folder, torch_model(), caplog)


def test_two_models_in_one_file_are_refused(tmp_path):
    state = {
        f"{prefix}.{key}": value
        for prefix in ("online", "target")
        for key, value in torch_model().state_dict().items()
    }
    folder = write_state(tmp_path / "model", torch_model(), state)
    with pytest.raises(
        CheckpointError, match='holds two models, under "online." and "target.".* Save'
    ):
        MambaLM.from_pretrained(folder)


def test_model_beside_a_copy_with_a_prefix_is_refused(tmp_path):
    state = dict(torch_model().state_dict())
    state |= {f"ema.{key}": value for key, value in state.items()}
    folder = write_state(tmp_path / "model", torch_model(), state)
    with pytest.raises(CheckpointError, match="not part of the model: ema.backbone"):
        MambaLM.from_pretrained(folder)


def test_adapter_that_is_not_merged_is_said(tmp_path):
    name = "backbone.layers.0.mixer.in_proj"
    state = {f"base_model.model.{k}": v for k, v in torch_model().state_dict().items()}
    weight = state.pop(f"base_model.model.{name}.weight")
    state[f"base_model.model.{name}.base_layer.weight"] = weight
    state[f"base_model.model.{name}.lora_A.default.weight"] = torch.ones(2, 8)
    folder = write_state(tmp_path / "model", torch_model(), state)
    with pytest.raises(CheckpointError, match=r"adapter that is not merged.*merge_and"):
        MambaLM.from_pretrained(folder)


def test_conversion_reads_and_verifies_other_names(model, tmp_path):
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    source = write_state(tmp_path / "model", model, state)
    found = convert(source, tmp_path / "hf", format="hf", verify=True)
    assert found.verification is not None and found.verification.error < 1e-5
    theirs = type(model).from_pretrained(tmp_path / "hf").eval()
    np.testing.assert_array_equal(torch_logits(theirs), torch_logits(model))


@pytest.mark.parametrize("name", TIED)
def test_conversion_verifies_a_model_without_its_head(name, tmp_path):
    MODELS[name].backbone.save_pretrained(tmp_path / "bare")
    found = convert(tmp_path / "bare", tmp_path / "hf", format="hf", verify=True)
    assert found.verification is not None and found.verification.error < 1e-5


@pytest.mark.parametrize("holder", ["model", "state_dict", None])
def test_prefixes_of_a_vim_are_left_out(holder, tmp_path, caplog):
    state = definition.random_state()
    expected = Vim.from_pretrained(write_pth(tmp_path / "vim.pth", state))
    wrapped = {f"module.{key}": torch.from_numpy(v) for key, v in state.items()}
    content = wrapped if holder is None else {holder: wrapped, "epoch": 2}
    torch.save(content, tmp_path / "wrapped.pth")
    with caplog.at_level(logging.INFO, logger="jmamba"):
        found = Vim.from_pretrained(
            tmp_path / "wrapped.pth", changes={"image_size": expected.config.image_size}
        )
    for path, value in parameters_of(found).items():
        np.testing.assert_array_equal(value, parameters_of(expected)[path])
    assert [r for r in caplog.messages if 'the prefix "module."' in r]


@pytest.mark.parametrize(
    "keys",
    [
        {
            "architectures": ["MambaLMHeadModel"],
            "torch_dtype": "float16",
            "dtype": "float32",
            "transformers_version": "4.39.0",
            "auto_map": {"AutoModel": "modeling.Model"},
            "_name_or_path": "mine",
        },
        {"_comment": "trained twice", "notes": ["a", "b"], "license": "mit"},
        {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 4},
    ],
)
def test_original_config_may_hold_notes(keys, tmp_path, caplog):
    folder = write_original(tmp_path / "model", **keys)
    assert_loads(folder, torch_model(), caplog)
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    config = MambaLM.from_pretrained(folder).config
    wanted = {"bos_token_id": 1, "eos_token_id": (2, 3), "pad_token_id": 4}
    for name in ids:
        assert getattr(config, name) == (wanted[name] if name in keys else None)


def test_hf_config_may_hold_notes(tmp_path, caplog):
    folder = write_hf(tmp_path / "model")
    edit_config(folder, auto_map={}, _comment="mine", note="n", tags=["x"])
    assert transformers.AutoConfig.from_pretrained(folder).hidden_size == 8
    assert_loads(folder, torch_model(), caplog)
