"""Architectures: one that is not in the package loads and saves like those that are."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from jmamba import LanguageModel, MambaConfig, MambaLM, Vim, VimConfig
from jmamba.checkpoints import CheckpointError, convert, load_orbax, save_orbax
from jmamba.layers.runs import stack_layers
from jmamba.models import Architecture, architecture_of, find_architecture, register
from jmamba.models.base import StackedModel
from jmamba.models.skeleton import make_skeleton, parameters_of

TOKENS = jnp.array([[3, 1, 4], [1, 5, 2]])


@dataclasses.dataclass(frozen=True, kw_only=True)
class BigramConfig:
    """Sizes of a model that sees one token."""

    vocab_size: int
    d_model: int
    num_layers: int
    skip: tuple[float, ...] = (1.0,)
    eos_token_id: int | None = None


class Bigram(StackedModel):
    """A model that guesses the next token from the last one."""

    reads = "tokens"

    def __init__(
        self, config, *, dtype=jnp.float32, param_dtype=jnp.float32, remat=False, rngs
    ):
        self.config, self.dtype, self.remat = config, jnp.dtype(dtype), remat
        options = {"dtype": dtype, "param_dtype": param_dtype}
        d, v = config.d_model, config.vocab_size

        def block(rngs):
            return nnx.Linear(d, d, **options, rngs=rngs)

        self.embedding = nnx.Embed(v, d, **options, rngs=rngs)
        self.layers = stack_layers(block, config.num_layers, rngs)
        self.head = nnx.Linear(d, v, use_bias=False, **options, rngs=rngs)

    def __call__(self, tokens):
        x = self.embedding(tokens)
        skip = jnp.asarray(self.config.skip[0], x.dtype)
        for kernel, bias in zip(
            self.layers.kernel[...], self.layers.bias[...], strict=True
        ):
            x = skip * x + jnp.tanh(x @ kernel + bias[None, None])
        return self.head(x)


BIGRAM = register(
    Architecture(name="bigram", model_class=Bigram, config_class=BigramConfig)
)


def bigram() -> Bigram:
    config = BigramConfig(vocab_size=6, d_model=4, num_layers=2, skip=(0.5, 2.0))
    return Bigram(config, rngs=nnx.Rngs(0))


def test_config_is_its_fields_and_comes_back(tmp_path):
    model = bigram()
    model.save_pretrained(tmp_path / "model", tokenizer="bytes")
    raw = json.loads((tmp_path / "model" / "config.json").read_text())
    assert raw == {
        "architectures": ["Bigram"],
        "model_type": "bigram",
        "vocab_size": 6,
        "d_model": 4,
        "num_layers": 2,
        "skip": [0.5, 2.0],
        "eos_token_id": None,
        "dtype": "float32",
        "tokenizer": "bytes",
    }
    assert BIGRAM.read(raw, "config.json")[0] == model.config


@pytest.mark.parametrize("shard_bytes", [2**20, 100])
def test_saved_model_comes_back(shard_bytes, tmp_path):
    model = bigram()
    model.save_pretrained(tmp_path / "model", shard_bytes=shard_bytes)
    back = Bigram.from_pretrained(tmp_path / "model")
    assert back.config == model.config
    np.testing.assert_array_equal(back(TOKENS), model(TOKENS))


def test_tensors_have_the_names_of_parameters(tmp_path):
    model = bigram()
    model.save_pretrained(tmp_path / "model")
    written = load_file(tmp_path / "model" / "model.safetensors")
    assert set(written) == {
        "embedding.embedding",
        "head.kernel",
        *(f"layers.{i}.{name}" for i in range(2) for name in ("kernel", "bias")),
    }
    kernel = parameters_of(model)["layers", "kernel"]
    np.testing.assert_array_equal(written["layers.1.kernel"], kernel[1])


def test_dtypes_are_chosen(tmp_path):
    bigram().save_pretrained(tmp_path / "model")
    half = Bigram.from_pretrained(tmp_path / "model", dtype="bfloat16")
    assert half(TOKENS).dtype == jnp.bfloat16
    half.save_pretrained(tmp_path / "half")
    assert Bigram.from_pretrained(tmp_path / "half", dtype="auto").dtype == jnp.bfloat16


def test_orbax_brings_it_back(tmp_path):
    model = bigram()
    save_orbax(model, tmp_path / "orbax")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))
    split, whole = (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(axis))
        for axis in ("data", None)
    )
    found = load_orbax(
        tmp_path / "orbax",
        sharding=lambda path, shape: split if path[0] == "head" else whole,
    )
    assert isinstance(found, Bigram)
    assert found.head.kernel[...].sharding == split
    for back in (found, Bigram.from_pretrained(tmp_path / "orbax")):
        np.testing.assert_array_equal(back(TOKENS), model(TOKENS))


def test_it_is_converted_like_the_others(tmp_path):
    bigram().save_pretrained(tmp_path / "model")
    found = convert(tmp_path / "model", tmp_path / "orbax")
    assert (found.layout, found.num_layers) == ("plain", 2)
    convert(tmp_path / "orbax", tmp_path / "back", format="hf")
    back = Bigram.from_pretrained(tmp_path / "back")
    np.testing.assert_array_equal(back(TOKENS), bigram()(TOKENS))
    (tmp_path / "model" / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match="is a Bigram, which transformers cannot"):
        convert(tmp_path / "model", tmp_path / "out", verify=True)


def test_other_classes_do_not_load_it(tmp_path):
    bigram().save_pretrained(tmp_path / "model")
    with pytest.raises(
        CheckpointError, match=r"'bigram', not a MambaLM .* load with Bigram\.from_pre"
    ):
        MambaLM.from_pretrained(tmp_path / "model")
    config = MambaConfig(vocab_size=6, d_model=4, num_layers=1)
    MambaLM(config, rngs=nnx.Rngs(0)).save_pretrained(tmp_path / "mamba")
    with pytest.raises(CheckpointError, match=r"load with MambaLM\.from_pretrained"):
        Bigram.from_pretrained(tmp_path / "mamba")


def test_mistakes_are_said(tmp_path):
    bigram().save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    raw = json.loads(file.read_text())
    file.write_text(json.dumps(raw | {"d_model": 5}))
    with pytest.raises(CheckpointError, match="of another shape.*Correct config.json"):
        Bigram.from_pretrained(tmp_path / "model")
    file.write_text(json.dumps(raw | {"width": 5}))
    with pytest.raises(CheckpointError, match="BigramConfig has no fields width; it h"):
        Bigram.from_pretrained(tmp_path / "model")
    file.write_text(json.dumps({"model_type": "bigram"}))
    with pytest.raises(CheckpointError, match="missing 3 required"):
        Bigram.from_pretrained(tmp_path / "model")
    with pytest.raises(TypeError, match="Bigram.from_pretrained takes no part"):
        Bigram.from_pretrained(tmp_path / "model", part="model")


def test_unknown_types_are_said_with_those_that_are_known(tmp_path):
    bigram().save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps({"model_type": "trigram"}))
    known = '"mamba", "falcon_mamba", .*"mamba2", .*"vim".* and "bigram"'
    for load in (Bigram.from_pretrained, MambaLM.from_pretrained, load_orbax):
        with pytest.raises(
            CheckpointError, match=f"of type 'trigram'; jmamba reads {known}"
        ):
            load(tmp_path / "model")
    with pytest.raises(CheckpointError, match="of type 'trigram'; jmamba reads"):
        convert(tmp_path / "model", tmp_path / "out")


def test_architectures_are_found_by_class_config_and_file():
    model = bigram()
    for known_by in (model, Bigram, model.config, BigramConfig, "bigram"):
        assert architecture_of(known_by) is BIGRAM
    assert find_architecture({"model_type": "bigram"}) is BIGRAM
    assert architecture_of(VimConfig(d_model=8)).name == "vim"
    assert find_architecture({"d_model": 8, "n_layer": 2}).name == "mamba"
    with pytest.raises(TypeError, match="int is of no registered architecture"):
        architecture_of(3)


def test_model_types_belong_to_one_architecture():
    other = dataclasses.replace(BIGRAM, name="other", model_types=("mamba",))
    with pytest.raises(
        ValueError, match='names the model types "mamba", which are \'m'
    ):
        register(other)
    again = register(dataclasses.replace(BIGRAM))  # a notebook's cell, run twice
    assert architecture_of("bigram") is again
    register(BIGRAM)


def test_skeletons_hold_no_values():
    skeleton = make_skeleton(bigram().config, dtype="float32", param_dtype="bfloat16")
    leaf = skeleton.parameters["layers", "kernel"]
    assert isinstance(leaf, jax.ShapeDtypeStruct)
    assert leaf.shape == (2, 4, 4) and leaf.dtype == jnp.bfloat16


def test_a_class_of_several_architectures_loads_each(tmp_path):
    sizes: Any = {"d_model": 8, "num_layers": 1}
    text = MambaLM(MambaConfig(vocab_size=9, **sizes), rngs=nnx.Rngs(0))
    text.save_pretrained(tmp_path / "text")
    config = VimConfig(**sizes, num_classes=2, image_size=32, patch_size=8)
    Vim(config, rngs=nnx.Rngs(0)).save_pretrained(tmp_path / "image")
    for kind, name, expected in (
        (LanguageModel, "text", MambaLM),
        (StackedModel, "text", MambaLM),
        (StackedModel, "image", Vim),
    ):
        loaded = kind.from_pretrained(tmp_path / name)
        assert type(loaded) is expected
    same = LanguageModel.from_pretrained(tmp_path / "text")(TOKENS).logits
    np.testing.assert_array_equal(same, text(TOKENS).logits)
    with pytest.raises(CheckpointError, match=r"not a .*Vim.from_pretrained"):
        LanguageModel.from_pretrained(tmp_path / "image")
