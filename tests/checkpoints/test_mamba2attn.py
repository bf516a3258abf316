"""Original hybrids of Mamba-2 and attention, against a definition in NumPy.

No other library computes them: transformers has no such class.
"""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from safetensors.numpy import save_file

from jmamba import LanguageModel, Mamba2AttnConfig, Mamba2AttnLM, attention
from jmamba.checkpoints import CheckpointError, convert

M, D, H, N, P, W, ROPE = 8, 16, 4, 3, 4, 6, 4  # P and W: widths of heads
HEADS = 2
CONFIG = {
    "d_model": M,
    "n_layer": 3,
    "vocab_size": 11,
    "d_intermediate": 0,
    "ssm_cfg": {"layer": "Mamba2", "d_state": N, "headdim": P},
    "attn_layer_idx": [1],
    "attn_cfg": {
        "causal": True,
        "d_conv": 4,
        "head_dim": W,
        "num_heads": HEADS,
        "qkv_proj_bias": False,
        "out_proj_bias": False,
        "rotary_emb_dim": ROPE,
    },
    "rms_norm": True,
    "residual_in_fp32": True,
    "pad_vocab_size_multiple": 16,
}
TOKENS = np.random.default_rng(1).integers(0, 11, (2, 7))


def weights() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    shapes = {"backbone.embedding.weight": (16, M), "backbone.norm_f.weight": (M,)}
    for layer in range(3):
        inner, rows = (3 * HEADS * W, 3 * HEADS * W)
        own: dict[str, tuple[int, ...]] = {"out_proj.weight": (M, HEADS * W)}
        if layer != 1:
            inner, rows = D + 2 * N, 2 * D + 2 * N + H
            own = {"out_proj.weight": (M, D), "norm.weight": (D,), "D": (H,)}
            own |= {"A_log": (H,), "dt_bias": (H,)}
        own |= {"in_proj.weight": (rows, M), "conv1d.bias": (inner,)}
        own["conv1d.weight"] = (inner, 1, 4)
        shapes[f"backbone.layers.{layer}.norm.weight"] = (M,)
        shapes |= {f"backbone.layers.{layer}.mixer.{k}": v for k, v in own.items()}
    return {
        key: (("norm" in key) + 0.5 * draw.standard_normal(shape)).astype(np.float32)
        for key, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mamba2attn")
    save_file(weights(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def silu(x):
    return x / (1 + np.exp(-x))


def norm(x, weight):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-5) * weight


def convolve(x, weight, bias):
    ahead = np.concatenate([np.zeros((3, x.shape[1])), x])
    return sum(ahead[k : k + len(x)] * weight[:, 0, k] for k in range(4)) + bias


def mix_recurrence(n, get):
    z, xBC, dt = np.split(n @ get("in_proj.weight").T, [D, 2 * D + 2 * N], axis=-1)
    xBC = silu(convolve(xBC, get("conv1d.weight"), get("conv1d.bias")))
    u, B, C = np.split(xBC, [D, D + N], axis=-1)
    delta = np.log1p(np.exp(dt + get("dt_bias")))
    h, y = np.zeros((H, P, N)), np.zeros((len(n), H, P))
    for t in range(len(n)):
        heads = u[t].reshape(H, P)
        decay = np.exp(-np.exp(get("A_log")) * delta[t])[:, None, None]
        h = decay * h + delta[t][:, None, None] * heads[:, :, None] * B[t]
        y[t] = h @ C[t] + get("D")[:, None] * heads
    return norm(y.reshape(len(n), D) * silu(z), get("norm.weight"))


def mix_attention(n, get):
    """q, k, v in order; a convolution without activation, then rotations by halves."""
    qkv = convolve(
        n @ get("in_proj.weight").T, get("conv1d.weight"), get("conv1d.bias")
    )
    q, k, v = (a.reshape(len(n), HEADS, W) for a in np.split(qkv, 3, axis=-1))
    half = ROPE // 2
    for a in (q, k):
        for t in range(len(n)):
            turn = np.exp(1j * t * 1e4 ** (-2 * np.arange(half) / ROPE))
            pair = (a[t, :, :half] + 1j * a[t, :, half:ROPE]) * turn
            a[t, :, :half], a[t, :, half:ROPE] = pair.real, pair.imag
    y = np.zeros_like(v)
    for i in range(len(n)):
        for a in range(HEADS):
            alpha = np.exp(k[: i + 1, a] @ q[i, a] / np.sqrt(W))
            y[i, a] = alpha @ v[: i + 1, a] / alpha.sum()
    return y.reshape(len(n), -1)


def definition(tokens):
    tensors = {key: x.astype(np.float64) for key, x in weights().items()}
    x = tensors["backbone.embedding.weight"][tokens]
    for layer in range(3):
        name = f"backbone.layers.{layer}."

        def get(key, name=name):
            return tensors[f"{name}mixer.{key}"]

        mix = mix_attention if layer == 1 else mix_recurrence
        y = mix(norm(x, tensors[f"{name}norm.weight"]), get)
        x = x + y @ get("out_proj.weight").T
    x = norm(x, tensors["backbone.norm_f.weight"])
    return x @ tensors["backbone.embedding.weight"].T


def test_model_is_its_definition(folder):
    model = LanguageModel.from_pretrained(folder)
    assert type(model) is Mamba2AttnLM
    assert model.config.unpadded_vocab_size == 11
    expected = np.stack([definition(row) for row in TOKENS])
    assert_close(model(TOKENS).logits, expected, 5e-6)
    out = model(TOKENS[:, :4])
    rest = model(TOKENS[:, 4:], cache=out.cache).logits
    assert_close(jnp.concatenate([out.logits, rest], axis=1), expected, 5e-6)
    mask = np.array([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    padded = model(TOKENS, attention_mask=mask).logits
    assert_close(padded[0, 2:], definition(TOKENS[0, 2:]), 5e-6)


def test_layer_behind_a_convolution_is_explained(folder):
    model = LanguageModel.from_pretrained(folder)
    x = model.embed(jnp.asarray(TOKENS, jnp.int32))
    block = model.layer(1)
    alpha = attention.hidden_attention(block.project(x).recurrence)
    values = block.project(x).recurrence.values
    y = jnp.einsum("bhij,bjhp->bihp", alpha, values).reshape(2, 7, -1)
    assert_close(x + block.mixer.project_out(y), block(x).x, 2e-6)
    vectors, bias = attention.token_vectors(block, x)
    assert_close(jnp.sum(vectors, axis=2) + bias, block(x).x - x, 5e-6)


def test_written_model_comes_back(folder, tmp_path):
    model = LanguageModel.from_pretrained(folder)
    model.save_pretrained(tmp_path / "ours")
    file = tmp_path / "ours" / "config.json"  # a type may stand there, but need not
    raw = json.loads(file.read_text())
    file.write_text(json.dumps(raw | {"model_type": "mamba2attn"}))
    again = LanguageModel.from_pretrained(tmp_path / "ours")
    assert again.config == model.config
    np.testing.assert_array_equal(again(TOKENS).logits, model(TOKENS).logits)
    with pytest.raises(CheckpointError, match="is an original hybrid of Mamba-2 and"):
        convert(folder, tmp_path / "out", verify=True)


MISTAKES = [
    ({"attn_layer_idx": [3]}, "attn_layer_idx must be a list of layers from 0 to 2"),
    ({"attn_cfg": {"causal": True, "d_conv": 4}}, "num_heads is missing"),
    ({"attn_cfg": {"causal": False}}, "does not compute: causal = False"),
    (
        {"attn_cfg": {"alibi": 1}},
        "attn_cfg holds keys that jmamba does not know",
    ),
    ({"attn_cfg": 3}, "attn_cfg must be an object, but is 3"),
    ({"attn_layer_idx": [0, 1]}, "layers.0.mixer"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES)
def test_mistakes_of_a_config_are_said(changes, message, folder, tmp_path):
    save_file(weights(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | changes))
    with pytest.raises(CheckpointError, match=message):
        LanguageModel.from_pretrained(tmp_path)


def test_released_sizes_have_a_name():
    config = Mamba2AttnConfig.named("mamba2attn-2.7b")
    assert (config.num_heads, config.num_query_heads, config.query_width) == (
        80,
        30,
        128,
    )
    with pytest.raises(ValueError, match="known is mamba2attn-2.7b"):
        Mamba2AttnConfig.named("mamba2attn")
