"""Mamba-2 against transformers, and its checkpoints in both dialects."""

import json
import math

import jax
import jax.numpy as jnp
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
    write_hf,
    write_original,
)
from flax import nnx
from helpers import relative_error
from test_parity import GRADIENTS, LOGITS, ours, theirs

from jmamba import LanguageModel, Mamba2Config, Mamba2LM
from jmamba.checkpoints import CheckpointError, convert
from jmamba.files.keys import nest
from jmamba.models.skeleton import parameters_of, slots_of
from jmamba_kernels.versions import enable_x64

HEADS = {"num_heads": 4, "head_dim": 4, "chunk_size": 4}
KNOBS = {
    "one group": {"n_groups": 1, "tie_word_embeddings": True},
    "groups": {"n_groups": 2, "use_bias": True, "time_step_limit": (0.05, 0.4)},
    "no bias": {
        "n_groups": 4,
        "use_conv_bias": False,
        "num_hidden_layers": 3,
        "conv_kernel": 3,
        "layer_norm_epsilon": 1e-3,
        "expand": 4,
        "num_heads": 8,
    },
}


def reference(name="groups", **changes):
    return torch_model("mamba2", **HEADS | KNOBS[name] | changes)


@pytest.mark.parametrize("name", KNOBS)
def test_model_matches_transformers(name, tmp_path):
    made = reference(name)
    model = LanguageModel.from_pretrained(write_hf(tmp_path / "model", made))
    assert type(model) is Mamba2LM
    tokens = random_tokens()
    logits, hidden, gradients = theirs(made, tokens)
    our_logits, our_hidden, our_gradients = ours(model, jnp.asarray(tokens, jnp.int32))
    assert relative_error(our_logits, logits) < LOGITS
    for mine, other in zip(our_hidden, hidden, strict=True):
        assert relative_error(mine, other) < LOGITS
    parameters = parameters_of(model)
    table = slots_of(model.config, parameters)
    assert set(table) == set(gradients)
    found = {path: np.full(a.shape, np.nan) for path, a in parameters.items()}
    for key, (path, index, change, _) in table.items():
        place = found[path][index]
        place[:] = change.from_torch(gradients[key])
    errors = jax.tree.map(relative_error, nnx.to_pure_dict(our_gradients), nest(found))
    assert max(jax.tree.leaves(errors)) < GRADIENTS, errors


def test_float64_model_matches_transformers(tmp_path, monkeypatch):
    """Theirs runs its recurrence and its norm in float32 unless the casts are made."""
    made = reference(tie_word_embeddings=True).double()
    folder = write_hf(tmp_path / "model", made)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        logits = torch_logits(made)
    made.float()
    with enable_x64():
        model = Mamba2LM.from_pretrained(folder, dtype="float64")
        assert relative_error(jax_logits(model), logits) < 1e-9


def test_chunked_and_cached_passes_are_the_whole(tmp_path):
    """Limits hold in single steps too, where transformers forgets them."""
    model = Mamba2LM.from_pretrained(write_hf(tmp_path / "model", reference()))
    tokens = jnp.asarray(random_tokens(), jnp.int32)
    whole = model(tokens).logits
    out = model(tokens[:, :4])
    parts = [out.logits]
    for t in range(4, 9):
        out = model(tokens[:, t : t + 1], cache=out.cache)
        parts.append(out.logits)
    assert relative_error(jnp.concatenate(parts, axis=1), whole) < LOGITS


@pytest.mark.parametrize("name", ["one group", "groups"])
def test_written_model_loads_in_transformers(name, tmp_path):
    made = reference(name, chunk_size=256)  # what it has where a file says nothing
    model = Mamba2LM.from_pretrained(write_hf(tmp_path / "theirs", made))
    model.save_pretrained(tmp_path / "ours")
    auto = transformers.AutoModelForCausalLM
    back = auto.from_pretrained(tmp_path / "ours").eval()
    assert type(back) is type(made)
    assert back.config.time_step_limit[1] == made.config.time_step_limit[1]
    np.testing.assert_array_equal(torch_logits(back), torch_logits(made))
    again = Mamba2LM.from_pretrained(tmp_path / "ours")
    assert again.config == model.config


def write_mamba2_original(folder, **keys):
    """Write the original layout of the model with one group."""
    ssm = {"layer": "Mamba2", "d_state": 4, "headdim": 4, **keys.pop("ssm", {})}
    made = reference("one group", chunk_size=256)
    return write_original(folder, made, **{"ssm_cfg": ssm, "d_intermediate": 0} | keys)


def test_original_layout(tmp_path):
    """Its embeddings are tied unless it says otherwise; its vocabulary is padded."""
    folder = write_mamba2_original(tmp_path / "original")
    model = LanguageModel.from_pretrained(folder)
    config = model.config
    assert isinstance(config, Mamba2Config)
    assert config.tie_embeddings and config.unpadded_vocab_size == 23
    expected = torch_logits(reference("one group", chunk_size=256))
    assert relative_error(jax_logits(model), expected) < LOGITS
    found = convert(folder, tmp_path / "hf", format="hf", verify=True)
    assert found.layout == "original" and found.verification is not None
    assert found.verification.error < LOGITS
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    np.testing.assert_array_equal(torch_logits(back), expected)


def test_head_is_its_own_unless_a_file_says_otherwise(tmp_path):
    folder = write_hf(tmp_path / "model", reference("groups"))
    edit_config(folder, tie_word_embeddings=None)
    assert not Mamba2LM.from_pretrained(folder).config.tie_embeddings


@pytest.mark.parametrize("written", [[0, math.inf], [0, {"__float__": "Infinity"}]])
def test_infinite_limits_are_read(written, tmp_path):
    folder = write_hf(tmp_path / "model", reference("one group"))
    edit_config(folder, time_step_limit=written)
    assert Mamba2LM.from_pretrained(folder).config.dt_limit == (0, math.inf)


def test_what_transformers_does_not_compute_comes_back_from_our_own_files(tmp_path):
    keys = {"norm_before_gate": True, "D_has_hdim": False, "ngroups": 1}
    folder = write_mamba2_original(tmp_path / "original", ssm=keys)
    model = Mamba2LM.from_pretrained(folder)
    assert model.config.norm_before_gate
    model.save_pretrained(tmp_path / "ours")
    raw = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert raw["norm_before_gate"] and "is_normed" not in raw
    back = Mamba2LM.from_pretrained(tmp_path / "ours")
    np.testing.assert_array_equal(jax_logits(back), jax_logits(model))
    (tmp_path / "ours" / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match="normalises before its gate, which tran"):
        convert(tmp_path / "ours", tmp_path / "out", verify=True)


HF_MISTAKES = [
    ({"n_groups": 3}, "num_groups=3 must divide the 4 heads"),
    ({"num_heads": 5}, "hidden_size 8 times expand 2 must be num_heads 5 times head_d"),
    ({"time_step_limit": [0]}, r"time_step_limit must be the least .* is \[0\]"),
    ({"time_step_limit": [2, 1]}, r"dt_limit must be the least and .* \(2.0, 1.0\)"),
    ({"state_size": 5}, "of another shape.*num_heads 4"),
    ({"quantization_config": {"bits": 4}}, "asks for something jmamba does not"),
    ({"rope": 1}, "holds keys that jmamba does not know: rope"),
]


@pytest.mark.parametrize(("changes", "message"), HF_MISTAKES)
def test_mistakes_of_a_config_are_said(changes, message, tmp_path):
    folder = write_hf(tmp_path / "model", reference("groups"))
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        Mamba2LM.from_pretrained(folder)


ORIGINAL_MISTAKES = [
    ({"attn_layer_idx": [9, 18]}, r"attn_layer_idx must be .* from 0 to 1, but is"),
    ({"ssm": {"d_ssm": 8}}, "d_ssm = 8: layers of which a part"),
    ({"ssm": {"rotary": 1}}, "ssm_cfg holds keys that jmamba does not know: rotary"),
]


@pytest.mark.parametrize(("changes", "message"), ORIGINAL_MISTAKES)
def test_mistakes_of_an_original_config_are_said(changes, message, tmp_path):
    folder = write_mamba2_original(tmp_path / "model", **changes)
    with pytest.raises(CheckpointError, match=message):
        LanguageModel.from_pretrained(folder)


def test_released_sizes_have_names():
    config = Mamba2Config.named("mamba2-2.7b")
    assert (config.num_heads, config.d_state, config.vocab_size) == (80, 128, 50288)
    with pytest.raises(ValueError, match="known are mamba2-130m, mamba2-370m"):
        Mamba2Config.named("mamba-130m")
