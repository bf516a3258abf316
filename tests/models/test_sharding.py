"""Models on meshes of data, fsdp, sequence and tensor are those of one device."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close
from jax.sharding import PartitionSpec as P
from random_models import random_mamba2_model, random_text_model, random_tokens

from jmamba import MambaLM, Sharding, Vim, VimConfig
from jmamba.checkpoints import CheckpointError, load_orbax, save_orbax
from jmamba.files import weight_files
from jmamba.layers.letters import letters_of, path_of
from jmamba.planning.exchanges import exchanges_in
from jmamba.training.classification import mean_cross_entropy

WIDE = {"d_model": 16, "d_state": 4}
ROWS, LENGTH = 8, 16


@cache
def random_vision_model() -> Vim:
    config = VimConfig(image_size=8, patch_size=2, d_model=16, num_layers=2, d_state=4,
                       num_classes=4)  # fmt: skip
    return Vim(config, rngs=nnx.Rngs(0))


MODELS = {
    "mamba": lambda: random_text_model(layers=2, **WIDE),
    "mamba2": lambda: random_mamba2_model(layers=2, head_width=8, **WIDE),
    "vim": random_vision_model,
}
CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "mamba": ({"data": 2, "fsdp": 2, "tensor": 2}, {"fsdp": 4, "sequence": 2},
              {"data": 2, "sequence": 2, "tensor": 2}),
    "mamba2": ({"fsdp": 2, "sequence": 2, "tensor": 2},),
    "vim": ({"data": 2, "fsdp": 2, "tensor": 2},),
}  # fmt: skip
every_mesh = pytest.mark.parametrize(
    ("kind", "axes"), [(kind, axes) for kind, some in CASES.items() for axes in some]
)


@cache
def batch_of(kind: str):
    if kind == "vim":
        images = jax.random.normal(jax.random.key(0), (ROWS, 8, 8, 3))
        return images, jnp.arange(ROWS) % 4
    return random_tokens(ROWS, LENGTH), random_tokens(ROWS, LENGTH, seed=1)


@partial(jax.jit, static_argnames="graphdef")
def run(state, batch, *, graphdef):
    """Return loss and logits, and the gradient of the loss."""

    def loss_of(state):
        out = nnx.merge(graphdef, state)(batch[0])
        logits = getattr(out, "logits", out)
        return mean_cross_entropy(logits, batch[1]), logits

    return jax.value_and_grad(loss_of, has_aux=True)(state)


@cache
def on_one_device(kind: str):
    graphdef, state = nnx.split(MODELS[kind]())
    return run(state, batch_of(kind), graphdef=graphdef)


@cache
def on_mesh(kind: str, axes: tuple):
    """Return what a mesh computes, and what its devices exchange."""
    sharding = Sharding(**dict(axes))
    graphdef, state = nnx.split(sharding.place_model(MODELS[kind]()))
    inputs, labels = batch_of(kind)
    batch = sharding.place_batch((inputs, labels))
    compiled = run.lower(state, batch, graphdef=graphdef).compile()
    return compiled(state, batch), exchanges_in(
        compiled.as_text() or "", sharding.shape
    )


@every_mesh
def test_mesh_computes_what_one_device_does(kind, axes):
    ((loss, logits), gradient), _ = on_mesh(kind, tuple(axes.items()))
    (expected_loss, expected_logits), expected = on_one_device(kind)
    assert_close(loss, expected_loss, 1e-5)
    assert_close(logits, expected_logits, 1e-5)
    assert_close(gradient, expected, 1e-5)


@every_mesh
def test_gradients_lie_as_parameters_do(kind, axes):
    (_, gradient), _ = on_mesh(kind, tuple(axes.items()))
    places = Sharding(**axes).places(MODELS[kind]())
    for keys, x in jax.tree.leaves_with_path(gradient):
        assert x.sharding.is_equivalent_to(places[path_of(keys)], x.ndim), keys


@every_mesh
def test_no_part_of_a_tensor_axis_or_a_sequence_is_gathered(kind, axes):
    """Of parameters over `tensor` each device has its own, of sequences its tokens."""
    _, exchanges = on_mesh(kind, tuple(axes.items()))
    gathers = [x for x in exchanges if x.kind == "all-gather"]
    assert not [x for x in gathers if "sequence" in x.axes]
    over_tensor = {s for x in gathers if "tensor" in x.axes for s in x.shapes}
    model = MODELS[kind]()
    whole = {
        shape_of(model, path)
        for path, place in Sharding(**axes).places(model).items()
        if "tensor" in place.spec
    }
    assert not over_tensor & (whole | {shape[1:] for shape in whole})
    if kind == "mamba":
        assert not over_tensor
    if "fsdp" in axes:  # the layers' parameters, one layer at a time
        layers = model.config.num_layers
        assert layers in {x.times for x in gathers if x.axes == {"fsdp"}}


def shape_of(model, path):
    leaves = jax.tree.leaves_with_path(nnx.state(model, nnx.Param))
    return next(x.shape for keys, x in leaves if path_of(keys) == path)


@pytest.mark.parametrize("kind", MODELS)
def test_every_parameter_has_letters(kind):
    letters = letters_of(MODELS[kind]())
    assert all(set(one) - {"_"} for one in letters.values()), letters


def test_spec_follows_the_letters():
    sharding = Sharding(data=1, fsdp=2, sequence=2, tensor=2)
    assert sharding.spec("smd", (3, 8, 16)) == P(None, "fsdp", "tensor")
    assert sharding.spec("blm", (4, 8, 6))[:2] == (("data", "fsdp"), "sequence")
    assert sharding.spec("vm", (25, 8)) == P(None, "fsdp")  # 25 is odd: whole


# Checkpoints --------------------------------------------------------------------------


def parts_of(model):
    return [
        (x.sharding.spec, x.addressable_shards[0].data.shape)
        for x in jax.tree.leaves(nnx.state(model))
    ]


@pytest.fixture(scope="module", params=MODELS)
def saved(request, tmp_path_factory):
    model = MODELS[request.param]()
    folder = tmp_path_factory.mktemp(request.param) / "model"
    model.save_pretrained(folder)
    return model, folder


AXES: dict[str, Any] = {"fsdp": 2, "tensor": 2, "data": 2}


def test_checkpoint_loads_into_parts(saved, monkeypatch):
    """Each device's part is read from the file by itself, and no tensor as a whole."""
    model, folder = saved
    read, most = [], max(x.size for x in jax.tree.leaves(nnx.state(model)))
    convert = weight_files.StoredTensor

    def noting(shape, dtype, read_tensor):
        def read_part(part=()):
            value = read_tensor(part)
            read.append(value.size)
            return value

        return convert(shape, dtype, read_part)

    monkeypatch.setattr(weight_files, "StoredTensor", noting)
    sharding = Sharding(**AXES)
    loaded = type(model).from_pretrained(folder, sharding=sharding)
    for x, y in zip(*(jax.tree.leaves(nnx.state(m)) for m in (loaded, model)),
                    strict=True):  # fmt: skip
        assert np.array_equal(x, y)
    assert parts_of(loaded) == parts_of(sharding.place_model(model))
    assert read and max(read) <= most // 2


def test_orbax_restores_onto_another_mesh(tmp_path):
    model = MODELS["mamba"]()
    save_orbax(Sharding(**AXES).place_model(model), tmp_path / "model")
    other = Sharding(fsdp=4, tensor=2)
    loaded = load_orbax(tmp_path / "model", sharding=other)
    assert parts_of(loaded) == parts_of(other.place_model(model))
    for x, y in zip(*(jax.tree.leaves(nnx.state(m)) for m in (loaded, model)),
                    strict=True):  # fmt: skip
        assert np.array_equal(x, y)


def test_values_that_are_not_finite_are_named(tmp_path):
    model = MODELS["mamba"]()
    model.embedding[...] = model.embedding[...].at[0, 0].set(np.nan)
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match="not finite: .*embeddings.weight"):
        MambaLM.from_pretrained(tmp_path / "model", sharding=Sharding(**AXES))


# Messages -----------------------------------------------------------------------------


def test_mesh_of_other_devices_is_refused():
    with pytest.raises(ValueError, match=r"mesh of 6 devices, but there are 8.*fsdp=8"):
        Sharding(fsdp=3, tensor=2)
    with pytest.raises(ValueError, match="whole numbers from 1 on"):
        Sharding(fsdp=0)


@pytest.mark.parametrize("text", ["fsdp", "fsdp=x", "rows=8", "fsdp=4,fsdp=2"])
def test_what_is_no_mesh_is_refused(text):
    with pytest.raises(ValueError, match=r"is no mesh.*fsdp=4,tensor=2"):
        Sharding.parse(text)


def test_mesh_that_does_not_divide_is_refused():
    model = MODELS["mamba"]()
    three = Sharding(tensor=3, devices=jax.devices()[:3])
    with pytest.raises(ValueError, match="d_inner=32 is not divided by tensor=3"):
        three.place_model(model)
    sharding = Sharding(fsdp=4, sequence=2)
    with pytest.raises(ValueError, match=r"6 rows .* data x fsdp = 4"):
        sharding.place_batch(random_tokens(6, 16))
    with pytest.raises(ValueError, match="15 tokens .* sequence=2"):
        sharding.place_batch(random_tokens(8, 15))
