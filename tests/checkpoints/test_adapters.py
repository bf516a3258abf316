"""LoRA adapters: what transformers computes with them is what the merged model does."""

import math

import numpy as np
import pytest
from checkpoint_samples import (
    contents,
    jax_logits,
    torch,
    torch_logits,
    torch_model,
    write_bin,
    write_hf,
    write_json,
    write_original,
)
from safetensors.torch import save_file
from test_conversion import run
from test_hub import hub  # noqa: F401

from jmamba import MambaLM
from jmamba.checkpoints import CheckpointError, convert, load_tokenizer, save_orbax

pytestmark = pytest.mark.usefixtures("optimised_programs")

MODELS = {
    "mamba": torch_model(),
    "biased": torch_model(seed=1, use_bias=True, conv_kernel=3, expand=3),
    "falcon": torch_model(
        "falcon_mamba", seed=2, num_hidden_layers=3, tie_word_embeddings=False
    ),
}
TARGETS = ("in_proj", "x_proj", "dt_proj", "out_proj")
PREFIX = "base_model.model."


def draw_factors(model, rank=2, seed=0, targets=TARGETS):
    """Return module name -> (A, B) for every targeted projection of a model."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return 0.1 * torch.randn(shape, generator=generator)

    return {
        name: (draw(rank, module.in_features), draw(module.out_features, rank))
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in targets
    }


def write_adapter(folder, factors, extra=None, *, suffix=".safetensors", **keys):
    """Write a folder as PEFT does."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "org/base",
        "r": 2,
        "lora_alpha": 6,
        "lora_dropout": 0.1,
        "target_modules": list(TARGETS),
        "bias": "none",
        "inference_mode": True,
        "use_dora": False,
        "loftq_config": {},
        "megatron_core": "megatron.core",
        "megatron_config": None,
    }
    write_json(folder / "adapter_config.json", config | keys)
    state = {}
    for name, (A, B) in factors.items():
        state[f"{PREFIX}{name}.lora_A.weight"] = A
        state[f"{PREFIX}{name}.lora_B.weight"] = B
    state |= extra or {}
    if suffix == ".bin":
        torch.save(state, folder / "adapter_model.bin")
    else:
        save_file(state, folder / "adapter_model.safetensors")
    return folder


def adapted_logits(model, factors, scale):
    """Return logits of transformers' model with x A^T B^T added to its projections.

    Of dt_proj it takes the weight and never calls the layer: the weight is changed.
    """
    modules = dict(model.named_modules())
    handles, before = [], {}
    for name, (A, B) in factors.items():
        factor = scale(name) if callable(scale) else scale
        if name.endswith("dt_proj"):
            before[name] = modules[name].weight.data
            modules[name].weight.data = before[name] + factor * B @ A
        else:

            def add(module, inputs, y, A=A, B=B, factor=factor):
                return y + factor * inputs[0] @ A.T @ B.T

            handles.append(modules[name].register_forward_hook(add))
    try:
        return torch_logits(model)
    finally:
        for handle in handles:
            handle.remove()
        for name, weight in before.items():
            modules[name].weight.data = weight


def assert_logits(found, expected) -> None:
    assert np.abs(jax_logits(found) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_merged_model_computes_the_same(suffix, model, tmp_path):
    factors = draw_factors(model)
    base = write_hf(tmp_path / "base", model)
    adapter = write_adapter(tmp_path / "adapter", factors, suffix=suffix)
    expected = adapted_logits(model, factors, 6 / 2)
    assert np.abs(expected - torch_logits(model)).max() > 0.1  # it changes something
    assert_logits(MambaLM.from_pretrained(adapter, base=base), expected)


@pytest.mark.parametrize(
    "keys, scale",
    [
        ({"lora_alpha": 8, "r": 2}, 4.0),
        ({"lora_alpha": 8, "use_rslora": True}, 8 / math.sqrt(2)),
        ({"fan_in_fan_out": True}, 3.0),  # PEFT turns it off for these layers
        (
            {"alpha_pattern": {"x_proj": 10, r"layers\.0\.mixer\.in_proj": 1}},
            lambda name: (
                5.0 if "x_proj" in name else 0.5 if "0.mixer.in_proj" in name else 3.0
            ),
        ),
        ({"a_later_key": None, "another": False, "third": {}}, 3.0),
    ],
)
def test_scale_is_peft_s(keys, scale, model, tmp_path):
    factors = draw_factors(model, seed=3)
    base = write_hf(tmp_path / "base", model)
    adapter = write_adapter(tmp_path / "adapter", factors, **keys)
    expected = adapted_logits(model, factors, scale)
    assert_logits(MambaLM.from_pretrained(adapter, base=base), expected)


def test_ranks_may_differ(model, tmp_path):
    factors = draw_factors(model, 1) | draw_factors(model, 4, targets=("out_proj",))
    base = write_hf(tmp_path / "base", model)
    adapter = write_adapter(
        tmp_path / "adapter", factors, r=1, rank_pattern={"out_proj": 4}
    )
    expected = adapted_logits(
        model, factors, lambda name: 6 / 4 if "out_proj" in name else 6.0
    )
    assert_logits(MambaLM.from_pretrained(adapter, base=base), expected)


def test_adapter_of_a_model_without_its_head(model, tmp_path):
    factors = draw_factors(model)
    bare = {name.removeprefix("backbone."): pair for name, pair in factors.items()}
    adapter = write_adapter(tmp_path / "adapter", bare)
    base = write_bin(tmp_path / "base", model, shards=2)
    expected = adapted_logits(model, factors, 3.0)
    assert_logits(MambaLM.from_pretrained(adapter, base=base), expected)


def test_tensors_trained_as_a_whole_replace_the_base_s(tmp_path):
    model, other = MODELS["falcon"], torch_model(
        "falcon_mamba", seed=7, num_hidden_layers=3, tie_word_embeddings=False
    )  # fmt: skip
    keys = ("lm_head.weight", "backbone.norm_f.weight", "backbone.embeddings.weight",
            "backbone.layers.1.mixer.conv1d.bias")  # fmt: skip
    whole = {key: other.state_dict()[key].clone() for key in keys}
    base = write_hf(tmp_path / "base", model)
    adapter = write_adapter(
        tmp_path / "adapter",
        {},
        {PREFIX + key: value for key, value in whole.items()},
        modules_to_save=["lm_head"],
        bias="all",
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        model.load_state_dict(before | whole)
        expected = torch_logits(model)
    finally:
        model.load_state_dict(before)
    assert_logits(MambaLM.from_pretrained(adapter, base=base), expected)


def test_change_of_an_embedding_is_added(tmp_path):
    model = MODELS["falcon"]
    A, B = torch.randn(2, 24), torch.randn(8, 2)
    name = f"{PREFIX}backbone.embeddings.lora_embedding_"
    adapter = write_adapter(tmp_path / "adapter", {}, {f"{name}A": A, f"{name}B": B})
    base = write_hf(tmp_path / "base", model)
    found = MambaLM.from_pretrained(adapter, base=base).embedding[...]
    expected = model.backbone.embeddings.weight.detach() + 3.0 * (B @ A).T
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_half_precision_is_rounded_once(tmp_path):
    model = MODELS["mamba"]
    factors = draw_factors(model)
    base = write_hf(tmp_path / "base", model)
    adapter = write_adapter(tmp_path / "adapter", factors)
    found = MambaLM.from_pretrained(adapter, base=base, dtype="bfloat16")
    A, B = factors["backbone.layers.1.mixer.in_proj"]
    weight = model.state_dict()["backbone.layers.1.mixer.in_proj.weight"]
    exact = (weight + 3.0 * B @ A).bfloat16().float().numpy().T
    kernel = np.asarray(found.layers.mixer.in_proj.kernel[...][1], np.float32)
    np.testing.assert_allclose(kernel, exact, rtol=2**-7, atol=1e-6)


def test_conversion_writes_a_merged_model(model, tmp_path):
    factors = draw_factors(model)
    base = write_hf(tmp_path / "base", model)
    adapter = write_adapter(tmp_path / "adapter", factors)
    write_json(adapter / "tokenizer_config.json", {"eos_token": "a"})
    (base / "tokenizer.json").write_text("{}")
    found = convert(adapter, tmp_path / "out", base=base, format="hf", verify=True)
    assert found.verification is not None and found.verification.error < 1e-5
    expected = adapted_logits(model, factors, 3.0)
    theirs = type(model).from_pretrained(tmp_path / "out").eval()
    error = np.abs(torch_logits(theirs) - expected).max()
    assert error < 1e-5 * np.abs(expected).max()
    files = {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    assert files < set(contents(tmp_path / "out"))


def test_command_merges(tmp_path):
    model = MODELS["mamba"]
    base = write_hf(tmp_path / "base", model)
    factors = draw_factors(model)
    adapter = write_adapter(tmp_path / "adapter", factors)
    result = run(adapter, tmp_path / "out", "--base", base, "--format", "hf")
    assert result.exit_code == 0, result.output
    assert_logits(
        MambaLM.from_pretrained(tmp_path / "out"), adapted_logits(model, factors, 3.0)
    )


def test_adapter_without_its_base_is_explained(tmp_path):
    adapter = write_adapter(tmp_path / "adapter", draw_factors(MODELS["mamba"]))
    says = (
        "holds a LoRA adapter and no model: it needs the one that it was trained on "
        r".it was trained on org/base.. In Python give base='org/base' to from_pretra"
    )
    for ask in (MambaLM.from_pretrained, lambda x: convert(x, tmp_path / "out")):
        with pytest.raises(CheckpointError, match=says):
            ask(adapter)
    with pytest.raises(CheckpointError, match="holds a LoRA adapter and no model"):
        load_tokenizer(adapter)
    result = run(adapter, tmp_path / "out")
    assert result.exit_code == 2 and "--base org/base" in result.stderr
    assert not (tmp_path / "out").exists()


def test_adapter_beside_its_base_is_added_on_request(tmp_path, caplog):
    model = MODELS["falcon"]
    factors = draw_factors(model)
    folder = write_adapter(write_hf(tmp_path / "both", model), factors)
    assert_logits(MambaLM.from_pretrained(folder), torch_logits(model))
    assert [m for m in caplog.messages if "left out an adapter that lies besi" in m]
    caplog.clear()
    found = MambaLM.from_pretrained(folder, base=folder)
    assert caplog.messages == []
    assert_logits(found, adapted_logits(model, factors, 3.0))
    found.save_pretrained(folder, overwrite=True)
    assert not [name for name in contents(folder) if name.startswith("adapter")]


def test_adapter_is_added_to_the_original_layout(tmp_path):
    factors = draw_factors(MODELS["mamba"])
    base = write_original(tmp_path / "base", MODELS["mamba"])
    adapter = write_adapter(tmp_path / "adapter", factors)
    expected = adapted_logits(MODELS["mamba"], factors, 3.0)
    assert_logits(MambaLM.from_pretrained(adapter, base=base), expected)


def test_base_that_is_an_adapter_is_refused(tmp_path):
    adapter = write_adapter(tmp_path / "adapter", draw_factors(MODELS["mamba"]))
    with pytest.raises(CheckpointError, match="holds a LoRA adapter and no model"):
        MambaLM.from_pretrained(adapter, base=adapter)


def test_base_without_an_adapter_is_refused(tmp_path):
    base = write_hf(tmp_path / "base")
    with pytest.raises(CheckpointError, match="is no LoRA adapter .*leave the base ou"):
        MambaLM.from_pretrained(base, base=base)


@pytest.mark.parametrize(
    "keys, name",
    [
        ({"use_dora": True}, r"DoRA \(use_dora\)"),
        ({"peft_type": "IA3"}, "peft_type IA3"),
        ({"peft_type": "ADALORA", "target_r": 8}, "peft_type ADALORA"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
        ({"layer_replication": [[0, 1]]}, r"layer_replication \[\[0, 1\]\]"),
        ({"lora_bias": True}, "lora_bias True"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"megatron_config": {"a": 1}}, "megatron_config"),
    ],
)
def test_other_kinds_are_refused_by_name(keys, name, tmp_path):
    base = write_hf(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", draw_factors(MODELS["mamba"]), **keys)
    with pytest.raises(CheckpointError, match=f"no plain LoRA: {name}.*merge_and_unlo"):
        MambaLM.from_pretrained(adapter, base=base)


def test_tensors_of_other_kinds_are_refused_by_name(tmp_path):
    base = write_hf(tmp_path / "base")
    name = f"{PREFIX}backbone.layers.0.mixer."
    cases = {
        "lora_magnitude": {f"{name}x_proj.lora_magnitude_vector": torch.ones(3)},
        r"conv1d.weight \(A \(2, 1, 4\)": {
            f"{name}conv1d.lora_A.weight": torch.ones(2, 1, 4),
            f"{name}conv1d.lora_B.weight": torch.ones(16, 2, 1),
        },
        r"x_proj.weight \(only lora_A\)": {
            f"{name}x_proj.lora_A.weight": torch.ones(2, 16)
        },
    }
    for i, (match, extra) in enumerate(cases.items()):
        adapter = write_adapter(tmp_path / f"adapter{i}", {}, extra)
        with pytest.raises(CheckpointError, match=match):
            MambaLM.from_pretrained(adapter, base=base)


def test_adapter_of_another_model_is_refused(tmp_path):
    base = write_hf(tmp_path / "base")
    other = draw_factors(torch_model(num_hidden_layers=3))
    adapter = write_adapter(tmp_path / "deeper", other)
    with pytest.raises(CheckpointError, match=r"not part of the model: .*layers.2.mix"):
        MambaLM.from_pretrained(adapter, base=base)
    wide = draw_factors(torch_model(hidden_size=16))
    adapter = write_adapter(tmp_path / "wider", wide)
    with pytest.raises(
        CheckpointError, match=r"in_proj.weight is \(64, 16\), the mode"
    ):
        MambaLM.from_pretrained(adapter, base=base)


@pytest.mark.parametrize("key", ["lm_head.weight", "backbone.embeddings.weight"])
def test_change_of_one_of_two_tied_matrices_is_refused(key, tmp_path):
    base = write_hf(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", {}, {PREFIX + key: torch.ones(24, 8)})
    with pytest.raises(
        CheckpointError, match=f"{key}, which in its base .*both the em"
    ):
        MambaLM.from_pretrained(adapter, base=base)


def test_damaged_adapters_and_bases_are_refused(tmp_path):
    adapter = write_adapter(tmp_path / "adapter", draw_factors(MODELS["mamba"]))
    model = MambaLM.from_pretrained(write_hf(tmp_path / "base"))
    save_orbax(model, tmp_path / "orbax")
    with pytest.raises(
        CheckpointError, match="Orbax checkpoint, into which no adapter"
    ):
        MambaLM.from_pretrained(adapter, base=tmp_path / "orbax")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="but no adapter_model.safetensors or ad"):
        MambaLM.from_pretrained(adapter, base=tmp_path / "base")


def test_adapter_and_base_come_from_the_hub(hub, tmp_path):  # noqa: F811
    model = MODELS["mamba"]
    factors = draw_factors(model)
    hub.publish("org/base", write_hf(tmp_path / "base", model))
    hub.publish("org/adapter", write_adapter(tmp_path / "adapter", factors))
    found = MambaLM.from_pretrained("org/adapter", base="org/base")
    assert_logits(found, adapted_logits(model, factors, 3.0))
    convert("org/adapter", tmp_path / "out", base="org/base", format="hf")
    assert_logits(
        MambaLM.from_pretrained(tmp_path / "out"), adapted_logits(model, factors, 3.0)
    )
    with pytest.raises(CheckpointError, match="holds a LoRA adapter and no model"):
        MambaLM.from_pretrained("org/adapter")
