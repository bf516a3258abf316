"""GGUF files: written as llama.cpp wants them, and read back."""

import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from random_models import (
    _fill,
    _filled,
    random_hybrid_model,
    random_mamba2_model,
    random_parallel_model,
)

from jmamba import LanguageModel, MambaLM
from jmamba.checkpoints import CheckpointError, convert, load_tokenizer
from jmamba.files.gguf_vocabulary import WHOLE, describe_vocabulary
from jmamba.models.bamba.config import BambaConfig
from jmamba.models.gguf import save_gguf
from jmamba.models.jamba.config import JambaConfig
from jmamba.models.mamba2attn.config import Mamba2AttnConfig
from jmamba.models.skeleton import parameters_of

gguf = pytest.importorskip("gguf")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

HEADS: dict[str, Any] = {"d_model": 32, "head_width": 16, "d_state": 16}
HYBRID: dict[str, Any] = {
    "vocab_size": 24,
    "d_model": 32,
    "num_layers": 3,
    "d_feed_forward": 32,
    "num_query_heads": 2,
    "num_kv_heads": 1,
    "layer_kinds": ("mamba", "attention", "mamba"),
    "residual_in_fp32": False,
}
PARALLEL = {"d_model": 32, "rope_width": 16, "d_feed_forward": 32}
MODELS = {
    "mamba": lambda: _fill(d_model=32, eos_token_id=(2, 5), unpadded_vocab_size=22),
    "mamba-untied": lambda: _fill(d_model=32, tie_embeddings=False, norm_eps=1e-4),
    "falcon": lambda: _fill(d_model=32, mixer_rms_eps=1e-5, bos_token_id=3),
    "mamba2": lambda: random_mamba2_model(**HEADS),
    "granite": lambda: random_hybrid_model(
        **HEADS, rope_width=16, attention_scale=0.3, use_attention_bias=True
    ),
    "bamba": lambda: _filled(
        BambaConfig(**HYBRID, head_width=16, d_state=16, rope_width=8), 0, "float32"
    ),
    "jamba": lambda: _filled(JambaConfig(**HYBRID), 0, "float32"),
    "falcon-h1": lambda: random_parallel_model(
        **HEADS | PARALLEL, tie_embeddings=False, key_multiplier=0.7
    ),
}
NO_TOKENIZER = {"tokenizer.ggml.model": "none"}
MULTIPLIERS = ("head_multiplier", "key_multiplier", "attention_out_multiplier")


def write(model, file: Path, encoding="f32", vocabulary=None) -> Path:
    save_gguf(model, file, vocabulary or NO_TOKENIZER, encoding)
    return file


def tensors_of(file: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}


def assert_close(name: str, found, wanted):
    """Compare parameters: A_log goes through A, whose last bit it is known to."""
    if name == "A_log":
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2.0**-22)
    else:
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("kind", [name for name in MODELS if name != "falcon-h1"])
def test_gguf_gives_a_model_back(kind, tmp_path):
    model = MODELS[kind]()
    back = LanguageModel.from_pretrained(write(model, tmp_path / "model.gguf"))
    assert type(back) is type(model)
    assert back.config == model.config
    found = parameters_of(back)
    for path, wanted in parameters_of(model).items():
        assert_close(path[-1], found[path], wanted)


def test_gguf_keeps_multipliers_of_falcon_h1_in_weights(tmp_path):
    model = MODELS["falcon-h1"]()
    back = LanguageModel.from_pretrained(write(model, tmp_path / "model.gguf"))
    assert all(getattr(back.config, name) == 1 for name in MULTIPLIERS)
    found, wanted = parameters_of(back), parameters_of(model)
    keys = ("layers", "run0", "mixer", "attention", "k_proj", "kernel")
    np.testing.assert_allclose(found[keys], 0.7 * wanted[keys], rtol=1e-6)
    maps = ("layers", "run0", "mixer", "recurrent", "in_proj", "kernel")
    z, steps = model.config.ssm_multipliers[0], model.config.ssm_multipliers[4]
    np.testing.assert_allclose(
        found[maps][..., :64], z * wanted[maps][..., :64], rtol=1e-6
    )
    np.testing.assert_allclose(
        found[maps][..., -4:], steps * wanted[maps][..., -4:], rtol=1e-6
    )


@pytest.mark.parametrize("kind", MODELS)
def test_tensors_have_the_names_of_llama_cpp(kind, tmp_path):
    file = write(MODELS[kind](), tmp_path / "model.gguf")
    reader = gguf.GGUFReader(file)
    said = reader.fields["general.architecture"].contents()
    architecture = {v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[said]
    known = {gguf.TENSOR_NAMES[t] for t in gguf.MODEL_TENSORS[architecture]}
    for tensor in reader.tensors:
        layer, stem = tensor.name.split(".")[1], tensor.name
        stem = stem.removesuffix(".weight").removesuffix(".bias")
        assert stem.replace(f"blk.{layer}.", "blk.{bid}.") in known


def test_tensors_and_entries_are_what_llama_cpp_computes_with(tmp_path):
    model = MODELS["mamba"]()
    file = write(model, tmp_path / "model.gguf")
    tensors, fields = tensors_of(file), gguf.GGUFReader(file).fields
    A_log = np.asarray(model.layers.mixer.A_log[...])
    A = tensors["blk.1.ssm_a"].data
    np.testing.assert_allclose(A, -np.exp(A_log[1]), rtol=1e-6)
    assert A.shape == (64, 3)  # channels, states; ggml counts the other way
    window = np.asarray(model.layers.mixer.conv1d.weight[...])
    np.testing.assert_array_equal(tensors["blk.2.ssm_conv1d.weight"].data, window[2])
    entries = {
        "mamba.embedding_length": 32,
        "mamba.block_count": 3,
        "mamba.vocab_size": 24,
        "mamba.ssm.conv_kernel": 4,
        "mamba.ssm.inner_size": 64,
        "mamba.ssm.state_size": 3,
        "mamba.ssm.time_step_rank": 2,
        "mamba.ssm.dt_b_c_rms": False,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.eot_token_id": 5,
        "general.file_type": 0,
    }
    assert {key: fields[key].contents() for key in entries} == entries
    heads = tensors_of(write(MODELS["mamba2"](), tmp_path / "heads.gguf"))
    assert heads["blk.0.ssm_a"].data.shape == (4, 1)
    assert heads["blk.0.ssm_norm.weight"].data.shape == (2, 32)


def test_matrices_are_stored_as_asked_and_the_rest_in_float32(tmp_path):
    model = MODELS["mamba"]()
    wanted = parameters_of(model)
    for encoding in ("f16", "q8_0"):
        file = write(model, tmp_path / f"{encoding}.gguf", encoding)
        tensors = tensors_of(file)
        kinds = {name: tensors[name].tensor_type.name for name in tensors}
        assert kinds["blk.0.ssm_in.weight"] == encoding.upper()
        assert (
            kinds["blk.0.ssm_dt.weight"] == ("bf16", "f16")[encoding != "bf16"].upper()
        )
        others = (
            "ssm_a",
            "ssm_d",
            "ssm_conv1d.weight",
            "ssm_dt.bias",
            "attn_norm.weight",
        )
        assert {kinds[f"blk.0.{name}"] for name in others} == {"F32"}
        found = parameters_of(MambaLM.from_pretrained(file))
        for path, value in wanted.items():
            value, read = np.asarray(value), np.asarray(found[path])
            if encoding == "q8_0" and path[-1] == "embedding":
                assert_within_half_a_step(read, value, tensors["token_embd.weight"])
            elif path[-1] in ("kernel", "embedding"):
                spacing = {"f16": 2.0**-11, "q8_0": 0.01}[encoding]
                assert np.abs(read - value).max() <= spacing * np.abs(value).max()
            else:
                assert_close(path[-1], read, value)


def assert_within_half_a_step(found, wanted, tensor):
    """Compare with the steps that stand in the file, one for 32 numbers."""
    steps = tensor.data.reshape(-1, 34)[:, :2].copy().view(np.float16)
    steps = steps.astype(np.float32).reshape(*wanted.shape[:-1], -1, 1)
    apart = np.abs(found - wanted).reshape(*wanted.shape[:-1], -1, 32)
    assert (apart <= steps * (0.5 + 127 * 2.0**-11)).all()  # a step is a float16


def test_bytes_and_tokenizers_come_back(tmp_path):
    text = "Hé llo  w0rld\n"
    model = _fill(d_model=32, vocab_size=258, layers=1)
    described = describe_vocabulary(None, 258, (256,), is_bytes=True)
    file = write(model, tmp_path / "bytes.gguf", vocabulary=described)
    assert load_tokenizer(file).encode("é") == [195, 169]
    bpe = train_bpe(tmp_path / "tokenizer.json")
    rows = bpe.get_vocab_size() + 3
    model = _fill(d_model=32, vocab_size=rows, layers=1)
    described = describe_vocabulary(tmp_path / "tokenizer.json", rows, is_bytes=False)
    assert described["tokenizer.ggml.pre"] == "gpt-2"
    assert described["tokenizer.ggml.token_type"][-4:] == [3, 5, 5, 5]
    whole = write(model, tmp_path / "whole.gguf", vocabulary=described)
    del described[WHOLE]  # as in files that llama.cpp's converter makes
    listed = write(model, tmp_path / "listed.gguf", vocabulary=described)
    for file in (whole, listed):
        tokenizer = load_tokenizer(file)
        assert tokenizer.encode(text + "<end>") == bpe.encode(text + "<end>").ids
        assert tokenizer.decode(bpe.encode(text).ids) == text
    convert(listed, tmp_path / "back", format="hf")
    assert load_tokenizer(tmp_path / "back").encode(text) == bpe.encode(text).ids


def train_bpe(file: Path) -> tokenizers.Tokenizer:
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    splitter = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.pre_tokenizer = splitter  # pyright: ignore[reportAttributeAccessIssue]
    bpe.decoder = tokenizers.decoders.ByteLevel()  # pyright: ignore
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["hello world, hello word, low and lower"] * 3, trainer)
    bpe.add_special_tokens(["<end>"])
    bpe.save(str(file))
    return bpe


def test_tokenizers_without_a_rule_are_left_out_and_said(tmp_path, caplog):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = describe_vocabulary(tmp_path / "tokenizer.json", 24, is_bytes=False)
    assert found["tokenizer.ggml.model"] == "none" and WHOLE in found
    assert "has no rule for this tokenizer" in caplog.text


def test_conversions_to_gguf_and_back(tmp_path):
    model = MODELS["mamba"]()
    model.save_pretrained(tmp_path / "model")
    file = tmp_path / "model.gguf"
    done = convert(tmp_path / "model", file, format="gguf", dtype="f16")
    assert (done.format, done.dtype, done.num_layers) == ("gguf", "float16", 3)
    back = convert(file, tmp_path / "back", format="hf")
    assert (back.layout, back.dtype) == ("gguf", "float16")
    with pytest.raises(CheckpointError, match="exists already. Choose another name"):
        convert(tmp_path / "model", file, format="gguf")
    with pytest.raises(CheckpointError, match="give one that ends in .gguf"):
        convert(tmp_path / "model", tmp_path / "new", format="gguf")
    with pytest.raises(ValueError, match="must be f32, f16, q8_0, bf16, but is 'q4_0'"):
        convert(tmp_path / "model", tmp_path / "new.gguf", format="gguf", dtype="q4_0")
    with pytest.raises(ValueError, match="give the dtype f32, or leave verify out"):
        convert(file, tmp_path / "new.gguf", format="gguf", dtype="f16", verify=True)
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(CheckpointError, match="is a folder; give another name"):
        convert(file, tmp_path / "folder.gguf", format="gguf")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: _fill(d_model=32, d_inner=48), "has 48 channels, not twice its width"),
        (lambda: _fill(use_conv_bias=False), "has a convolution without a bias"),
        (lambda: _fill(use_bias=True), "has biases in its mixers' projections"),
        (
            lambda: random_mamba2_model(dt_limit=(0.1, 1.0)),
            r"keeps its step sizes in \(0.1, 1.0\)",
        ),
        (lambda: random_mamba2_model(is_normed=False), "has no norm behind its gate"),
        (
            lambda: random_parallel_model(
                is_normed=True, norm_before_gate=True, head_multiplier=1.0
            ),
            "normalises before its gate",
        ),
        (
            lambda: random_parallel_model(use_bias=True, head_multiplier=1.0),
            "has biases",
        ),
        (lambda: random_parallel_model(), "which are one table, otherwise"),
    ],
)
def test_models_that_llama_cpp_does_not_compute_are_refused(model, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        write(model(), tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_files_that_are_not_read_are_told(tmp_path):
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(file, "mamba")
    four_bits = np.zeros((32, 18), np.uint8)
    kind = gguf.GGMLQuantizationType.Q4_0
    writer.add_tensor("token_embd.weight", four_bits, raw_dtype=kind)
    close(writer)
    with pytest.raises(CheckpointError, match=r"tensors in Q4_0 \(token_embd.weight\)"):
        MambaLM.from_pretrained(file)
    writer = gguf.GGUFWriter(file, "llama")
    close(writer)
    with pytest.raises(CheckpointError, match="of the architecture 'llama'; of GGUF"):
        LanguageModel.from_pretrained(file)
    whole = write(MODELS["mamba"](), file).read_bytes()
    (tmp_path / "short.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="is cut short or no GGUF file"):
        MambaLM.from_pretrained(tmp_path / "short.gguf")
    with pytest.raises(CheckpointError, match="tokenizer of the kind 'none'"):
        load_tokenizer(file)
    writer = gguf.GGUFWriter(file, "mamba")
    writer.add_tensor("token_embd.weight", np.zeros((24, 32), np.float32))
    close(writer)
    with pytest.raises(CheckpointError, match="there is no mamba.embedding_length"):
        MambaLM.from_pretrained(file)


def test_what_needs_the_package_or_another_source_says_so(tmp_path, monkeypatch):
    file = write(MODELS["mamba"](), tmp_path / "model.gguf")
    with pytest.raises(CheckpointError, match="is a GGUF file, which transformers"):
        convert(file, tmp_path / "new", format="hf", verify=True)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=r'pip install "jmamba\[gguf\]"'):
        convert(file, tmp_path / "new.gguf", format="gguf")


def close(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_values_that_do_not_fit_are_told(tmp_path):
    model = _fill(d_model=32, seed=7)
    model = MambaLM.from_pretrained(write(model, tmp_path / "model.gguf"))
    model.embedding[...] = model.embedding[...].at[0, 0].set(1e6)
    with pytest.raises(CheckpointError, match="not finite in F16"):
        write(model, tmp_path / "f16.gguf", "f16")


def test_models_that_llama_cpp_does_not_know_are_refused(tmp_path):
    config = Mamba2AttnConfig(vocab_size=24, num_layers=1, d_model=8, head_width=4)
    with pytest.raises(CheckpointError, match="llama.cpp reads no Mamba2AttnLM"):
        write(_filled(config, 0, "float32"), tmp_path / "model.gguf")


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_computes_the_same_logits(kind, tmp_path):
    pytest.importorskip("llama_cpp")
    from llama import LlamaModel

    model = MODELS[kind]()
    llama = LlamaModel(write(model, tmp_path / "model.gguf"), threads=1, room=64)
    tokens = np.random.default_rng(0).integers(0, 22, 12)
    ours = np.asarray(model(jnp.asarray(tokens[None], jnp.int32)).logits)[0]
    apart = np.abs(llama.logits(tokens) - ours).max() / np.abs(ours).max()
    assert apart < 2e-5
