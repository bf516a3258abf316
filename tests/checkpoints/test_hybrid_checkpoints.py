"""Hybrids of Mamba-2 and attention against transformers, and their checkpoints."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_samples import (
    edit_config,
    jax_logits,
    random_tokens,
    torch,
    torch_logits,
    transformers,
    write_hf,
)
from flax import nnx
from helpers import relative_error
from hybrid_samples import KNOBS, compare_with_theirs, torch_hybrid
from random_models import random_hybrid_model
from test_parity import LOGITS

from jmamba import (
    BambaLM,
    FalconH1LM,
    GraniteLM,
    JambaLM,
    LanguageModel,
    Mamba2Config,
    Mamba2LM,
    OlmoHybridLM,
    Qwen3NextLM,
    generate,
)
from jmamba.checkpoints import CheckpointError, convert
from jmamba_kernels.versions import enable_x64

MODELS = {
    "granite": GraniteLM,
    "bamba": BambaLM,
    "falcon_h1": FalconH1LM,
    "jamba": JambaLM,
    "olmo_hybrid": OlmoHybridLM,
    "qwen3_next": Qwen3NextLM,
}
CASES = [(kind, knobs) for kind in MODELS for knobs in KNOBS[kind]]
CASES.remove(("jamba", "dense"))  # which generates below


LONG = [("olmo_hybrid", "rotated"), ("qwen3_next", "mixed")]
PAIRS = [
    pytest.param(case, marks=[pytest.mark.exhaustive] * (case in LONG))
    for case in CASES
]


@pytest.fixture(scope="module", params=PAIRS, ids=lambda case: " ".join(case))
def pair(request, tmp_path_factory):
    made = torch_hybrid(*request.param)
    folder = write_hf(tmp_path_factory.mktemp("theirs") / "model", made)
    model = LanguageModel.from_pretrained(folder)
    assert type(model) is MODELS[request.param[0]]
    return made, model, folder


def test_model_matches_transformers(pair):
    made, model, _ = pair
    compare_with_theirs(made, model)


@pytest.fixture(scope="module", params=MODELS)
def one(request, tmp_path_factory):
    """The first of each kind."""
    made = torch_hybrid(request.param, next(iter(KNOBS[request.param])))
    folder = write_hf(tmp_path_factory.mktemp("one") / "model", made)
    return made, LanguageModel.from_pretrained(folder), folder


def test_written_model_loads_in_transformers(pair, tmp_path):
    made, model, _ = pair
    model.save_pretrained(tmp_path / "ours")
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    assert type(back) is type(made)
    np.testing.assert_array_equal(torch_logits(back), torch_logits(made))
    again = LanguageModel.from_pretrained(tmp_path / "ours")
    assert again.config == model.config
    np.testing.assert_array_equal(jax_logits(again), jax_logits(model))


NEW = 8
PROMPTS = random_tokens(6, 3)
MASK = np.array([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])


def test_generation_matches_transformers(one):
    """Token for token, of padded rows and of one without padding."""
    made, model, _ = one
    options = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None,
               "pad_token_id": 0}  # fmt: skip
    prompts = jnp.asarray(PROMPTS, jnp.int32)
    new = generate(
        model, prompts, attention_mask=MASK, max_new_tokens=NEW, stop_tokens=()
    )
    for row, prompt, mask in zip(new.tokens, PROMPTS, MASK, strict=True):
        alone = torch.from_numpy(prompt[None, mask.astype(bool)])
        with torch.no_grad():
            ids = torch.ones_like(alone)
            expected = made.generate(alone, attention_mask=ids, **options)
        np.testing.assert_array_equal(row, expected[0, alone.shape[1] :].numpy())


def test_generation_goes_on_from_caches_side_by_side():
    model = random_hybrid_model()
    prompts = jnp.asarray(PROMPTS, jnp.int32)
    options: dict[str, Any] = {"stop_tokens": ()}
    whole = generate(model, prompts, attention_mask=MASK, max_new_tokens=NEW, **options)
    some = generate(model, prompts, attention_mask=MASK, max_new_tokens=3, **options)
    more = generate(model, None, cache=some, max_new_tokens=NEW - 3, **options)
    both = jnp.concatenate([some.tokens, more.tokens], axis=1)
    np.testing.assert_array_equal(both, whole.tokens)


@pytest.mark.parametrize("one", ["falcon_h1", "olmo_hybrid"], indirect=True)
def test_chunked_and_packed_passes_are_the_whole(one):
    _, model, _ = one
    tokens = jnp.asarray(random_tokens(), jnp.int32)
    whole, first = model(tokens).logits, model(tokens[:, :4])
    rest = model(tokens[:, 4:], cache=first.cache).logits
    parts = jnp.concatenate([first.logits, rest], axis=1)
    assert relative_error(parts, whole) < LOGITS
    segments = np.array([[0] * 4 + [1] * 5] * 2)
    packed = model(tokens, segment_ids=segments).logits
    assert relative_error(packed[:, 4:], model(tokens[:, 4:]).logits) < LOGITS
    assert relative_error(packed[:, :4], whole[:, :4]) < LOGITS


def test_a_missing_expert_is_named(tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = write_hf(tmp_path / "model", torch_hybrid("jamba", "experts"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.2.feed_forward.experts.3.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"missing: model.layers.2.feed_forward.experts.3.up_proj"
    ):
        LanguageModel.from_pretrained(folder)


QWEN = pytest.param("qwen3_next", marks=pytest.mark.exhaustive)


@pytest.mark.parametrize("one", ["granite", "olmo_hybrid", QWEN], indirect=True)
def test_conversion_is_verified_there_and_back(one, tmp_path):
    _, model, folder = one
    found = convert(folder, tmp_path / "orbax", verify=True)
    assert found.verification is not None and found.verification.error < LOGITS
    convert(tmp_path / "orbax", tmp_path / "hf", format="hf")
    back = LanguageModel.from_pretrained(tmp_path / "hf")
    np.testing.assert_array_equal(jax_logits(back), jax_logits(model))


@pytest.mark.parametrize("kind", ["granite", "jamba", "olmo_hybrid"])
def test_float64_model_matches_transformers(kind, tmp_path, monkeypatch):
    """Of the others transformers keeps tables of rotations in float32."""
    made = torch_hybrid(kind, next(iter(KNOBS[kind])), rms_norm_eps=2e-5).double()
    folder = write_hf(tmp_path / "model", made)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        logits = torch_logits(made)
    with enable_x64():
        model = LanguageModel.from_pretrained(folder, dtype="float64")
        assert relative_error(jax_logits(model), logits) < 1e-9


GRANITE_MISTAKES = [
    (
        {"layer_types": ["mamba", "conv", "mamba"]},
        "layer_types holds .*conv.*; jmamba knows",
    ),
    ({"layer_types": ["mamba"]}, "layer_kinds names 1 layers, but num_layers is 3"),
    ({"num_local_experts": 8}, r"missing: .*block_sparse_moe.input_linear.weight"),
    ({"num_local_experts": 2, "num_experts_per_tok": 3}, "up to their number"),
    ({"quantization_config": {"bits": 4}}, "does not compute: quantization_config"),
    ({"num_key_value_heads": 3}, "num_kv_heads=3 must divide the 4 heads"),
    ({"num_attention_heads": 3}, "num_query_heads=3 must divide the width 16"),
    (
        {"mamba_d_head": 5},
        "times mamba_d_head 5 must be the 32 channels",
    ),
    ({"mamba_n_groups": 3}, "num_groups=3 must divide the 8 heads"),
    ({"position_embedding_type": "alibi"}, "must be 'rope' or null, but is 'alibi'"),
    (
        {"rope_parameters": {"rope_type": "yarn"}},
        "only rotations of rope_type 'default'",
    ),
    ({"sliding_window": 5}, "keys that jmamba does not know: sliding_window"),
    ({"num_hidden_layers": 4, "layer_types": ["mamba"] * 4}, "layers"),
]


@pytest.mark.parametrize(("changes", "message"), GRANITE_MISTAKES)
def test_mistakes_of_a_config_are_said(changes, message, tmp_path):
    folder = write_hf(tmp_path / "model", torch_hybrid("granite", "scaled"))
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        LanguageModel.from_pretrained(folder)


def test_other_mistakes_are_said(tmp_path):
    made = torch_hybrid("bamba", "half")
    folder = write_hf(tmp_path / "model", made)
    edit_config(folder, attn_layer_indices=[3])
    with pytest.raises(CheckpointError, match="must be a list of layers from 0 to 2"):
        LanguageModel.from_pretrained(folder)
    edit_config(folder, attn_layer_indices=[1])
    with pytest.raises(CheckpointError, match=r"layers.1.mamba.*|layers.1.self_attn"):
        LanguageModel.from_pretrained(folder)


JAMBA_MISTAKES = [
    ({"num_experts": 4, "expert_layer_offset": 0}, r"feed_forward\.experts"),
    (
        {"attn_layer_offset": 2},
        "attn_layer_offset must be a layer below",
    ),
    ({"mamba_dt_rank": 2.5}, "mamba_dt_rank must be an integer"),
    ({"attn_layer_offset": 0}, "layers.1.mamba"),
]


@pytest.mark.parametrize(("changes", "message"), JAMBA_MISTAKES)
def test_mistakes_of_a_jamba_config_are_said(changes, message, tmp_path):
    folder = write_hf(tmp_path / "model", torch_hybrid("jamba", "dense"))
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        LanguageModel.from_pretrained(folder)


@pytest.mark.parametrize("one", ["granite", "falcon_h1"], indirect=True)
def test_caches_of_other_models_are_refused(one):
    _, model, _ = one
    config = Mamba2Config(vocab_size=24, d_model=16, num_layers=3, head_width=4)
    other = Mamba2LM(config, rngs=nnx.Rngs(0))
    token = jnp.array([[3]])
    with pytest.raises(ValueError, match="is a LayerCache of other layers than the "):
        model(token, cache=other.empty_cache(1))
    with pytest.raises(ValueError, match="is a (ByRun|ParallelCache) of other"):
        other(token, cache=model.empty_cache(1))
    with pytest.raises(ValueError, match="the cache holds 2 rows, but tokens have 1"):
        model(token, cache=model.empty_cache(2))
