"""Models that hold other parameters than their configuration says are not saved."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_models import random_text_model, random_tokens

from jmamba import MambaLM, Vim, VimConfig
from jmamba.checkpoints import CheckpointError, convert, load_orbax, save_orbax

WRITERS = {
    "safetensors": MambaLM.save_pretrained,
    "shards": partial(MambaLM.save_pretrained, shard_bytes=2000),
    "orbax": save_orbax,
}


def text_model(**changes) -> Any:
    return random_text_model(layers=2, **changes)


def adapt(model, name="in_proj", rank=2):
    """Wrap a projection of every layer in nnx.LoRA."""
    mixer = model.layers.mixer
    kernel = getattr(mixer, name).kernel[...]

    @nnx.split_rngs(splits=kernel.shape[0])
    @nnx.vmap(in_axes=(0, 0), out_axes=0)
    def wrap(base, rngs):
        lora = nnx.LoRA(
            kernel.shape[1],
            rank,
            kernel.shape[2],
            base_module=base,
            b_initializer=nnx.initializers.normal(0.3),
            rngs=rngs,
        )
        return lora

    setattr(mixer, name, wrap(getattr(mixer, name), nnx.Rngs(0)))
    return model


def merge(model, name="in_proj"):
    """Add the adapter of a projection to its kernel and put the layer back."""
    lora = getattr(model.layers.mixer, name)
    change = jnp.einsum("lir,lro->lio", lora.lora_a[...], lora.lora_b[...])
    base = lora.base_module
    base.kernel[...] = base.kernel[...] + change
    setattr(model.layers.mixer, name, base)
    return model


@pytest.fixture(params=WRITERS)
def write(request):
    return WRITERS[request.param]


@pytest.fixture
def folder(write, tmp_path):
    """A folder with a model, which a refused writer must leave."""
    write(text_model(), tmp_path / "model")
    return tmp_path / "model"


def snapshot(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_refused(write, model, folder, *parts) -> None:
    """Assert that a model is refused, that old and new places are as they were."""
    before, place = snapshot(folder), folder.parent / "new"
    for target in (folder, place):
        with pytest.raises(
            CheckpointError, match="Nothing was written.*Merge"
        ) as error:
            write(model, target, overwrite=True)
        for part in parts:
            assert part in str(error.value)
    assert snapshot(folder) == before and not place.exists()
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["in_proj", "out_proj"])
def test_adapter_is_refused_and_merged_model_is_saved(name, write, folder, unchecked):
    model = adapt(text_model(), name)
    mixer = f"layers.mixer.{name}"
    assert_refused(
        write,
        model,
        folder,
        f"missing: {mixer}.kernel",
        f"unknown: {mixer}.base_module.kernel, {mixer}.lora_a, {mixer}.lora_b",
    )
    tokens = random_tokens()
    expected = np.asarray(model(tokens).logits)
    assert np.abs(expected - text_model()(tokens).logits).max() > 0.05
    write(merge(model, name), folder, overwrite=True)
    found = MambaLM.from_pretrained(folder)(tokens).logits
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_adapter_in_a_vision_model_is_refused(tmp_path):
    vim: Any = Vim(VimConfig(d_model=8, num_layers=2, num_classes=3, image_size=8,
                        patch_size=4, stride=4), rngs=nnx.Rngs(0))  # fmt: skip
    vim.head = nnx.LoRA(8, 2, 3, base_module=vim.head, rngs=nnx.Rngs(1))
    for write in (Vim.save_pretrained, save_orbax):
        with pytest.raises(CheckpointError, match="of a Vim of its.*head.lora_a"):
            write(vim, tmp_path / "vim")
    assert list(tmp_path.iterdir()) == []


def test_further_parameter_is_refused(write, folder):
    model = text_model()
    model.steering = nnx.Param(jnp.ones(8))
    assert_refused(write, model, folder, "Parameters unknown: steering.")


def test_variable_of_another_kind_is_refused(write, folder):
    class Statistic(nnx.Variable):
        pass

    model = text_model()
    setattr(model.norm_f, "mean", Statistic(jnp.ones(8)))  # noqa: B010
    assert_refused(write, model, folder, "unknown: norm_f.mean")


def test_random_state_is_no_parameter(write, tmp_path):
    model = text_model()
    model.dropout = nnx.Dropout(0.1, rngs=nnx.Rngs(0))
    write(model, tmp_path / "model")
    tokens = random_tokens()
    np.testing.assert_array_equal(
        MambaLM.from_pretrained(tmp_path / "model")(tokens).logits,
        text_model()(tokens).logits,
    )


def test_missing_parameter_is_refused(write, folder):
    model = text_model(use_bias=True)
    model.layers.mixer.in_proj.bias = None
    assert_refused(write, model, folder, "Parameters missing: layers.mixer.in_proj.bia")


def test_head_of_its_own_is_saved(write, folder):
    model = text_model()
    model.lm_head = nnx.Param(model.embedding[...].T + 1)  # the configuration follows
    write(model, folder, overwrite=True)
    back = MambaLM.from_pretrained(folder)
    assert back.lm_head is not None
    np.testing.assert_array_equal(back.lm_head[...], model.lm_head[...])


def test_resized_vocabulary_needs_its_configuration(write, folder):
    model = text_model()
    table = model.embedding[...]
    model.embedding = nnx.Param(jnp.concatenate([table, table[:4]]))
    rows, width = table.shape
    says = f"embedding is ({rows + 4}, {width}), needs ({rows}, {width})"
    assert_refused(write, model, folder, f"of another shape: {says}")
    model.config = dataclasses.replace(model.config, vocab_size=rows + 4)
    write(model, folder, overwrite=True)
    assert MambaLM.from_pretrained(folder).embedding[...].shape == (rows + 4, width)


def test_left_out_layers_need_their_configuration(write, folder):
    model = text_model()
    graphdef, state = nnx.split(model.layers)
    model.layers = nnx.merge(graphdef, jax.tree.map(lambda x: x[:1], state))
    assert_refused(write, model, folder, "layers.norm.scale is (1, ")
    model.config = dataclasses.replace(model.config, num_layers=1)
    write(model, folder, overwrite=True)
    assert MambaLM.from_pretrained(folder).config.num_layers == 1


def test_unchanged_models_of_all_precisions_are_saved(write, tmp_path):
    for dtype in ("float32", "bfloat16"):
        write(text_model(dtype=dtype), tmp_path / dtype)
        MambaLM.from_pretrained(tmp_path / dtype)
    if write is save_orbax:
        assert load_orbax(tmp_path / "float32").config.num_layers == 2
        convert(tmp_path / "float32", tmp_path / "back", format="hf")
