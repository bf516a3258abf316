"""Models whose gates have chosen signs by configuration."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, quick_jit
from refined_models import draw_images, draw_tokens, image_model, text_model

from jmamba import MambaConfig, VimConfig, trace
from jmamba.attention import factorise, hidden_attention
from jmamba.dynamics import (
    MODES,
    DefiniteGates,
    count_inertia,
    definite_gates,
    gate_spectrum,
    layer_span,
    layer_system,
    semidefinite_gate,
    token_jacobian,
)
from jmamba.layers import MixerSizes, Precision
from jmamba.models.skeleton import parameters_of
from jmamba.refinements.definite import unpack_live
from jmamba.refinements.gates import SemidefiniteGates, SymmetricGates, make_gates
from jmamba.refinements.signs import CHOICES, GateSigns
from jmamba.surgery import as_free, project_from_pretrained, with_gates
from jmamba.training.optimizer import decay_mask
from jmamba_kernels.versions import enable_x64

REFINED = CHOICES[1:]


@pytest.mark.parametrize("mode", REFINED)
def test_signs_hold_in_every_layer(mode):
    with enable_x64():
        model = text_model(dtype="float64", definite=mode)
        for layer in range(2):
            system = layer_system(model, layer)
            symmetric = gate_spectrum(system).symmetric
            positive = {"neg": 0, "nsd_general": 0, "mixed": 1}.get(mode, 3)
            assert (symmetric > 1e-9).sum() == positive
            assert (symmetric < -1e-9).sum() == 3 - positive
            if mode in MODES:  # not by the symmetric part alone: M is symmetric
                found = count_inertia(system, tolerance=1e-12)
                assert tuple(found)[:2] == (positive, 3 - positive)


def test_gates_are_those_of_the_pure_functions():
    with enable_x64():
        for mode in MODES:
            for equal in (False, True):
                model = text_model(
                    dtype="float64", definite=mode, equal_magnitudes=equal
                )
                gates = model.layer(1).mixer.gates
                raw = DefiniteGates(unpack_live(gates.P[...], 3, 16), gates.v[...])
                S_B, S_C = definite_gates(raw, mode, equal_magnitudes=equal)
                system = layer_system(model, 1)
                assert_close((system.S_B, system.S_C), (S_B, S_C), 1e-15)
        own = text_model(dtype="float64", definite="mixed", definite_threshold=2.0)
        system = layer_system(own, 0)  # rows of S_C have a one, those of S_B have d
        assert np.abs(np.diag(system.S_B)).min() > 2.0
        model = text_model(dtype="float64", definite="nsd_general")
        gates, system = model.layer(0).mixer.gates, layer_system(model, 0)
        L, T = jnp.tril(gates.K[...]), jnp.triu(gates.K[...], 1)
        expected = semidefinite_gate(gates.S_B[...], L, T, sign=-1)
        assert_close(system.S_C, expected, 1e-15)


@pytest.mark.parametrize("mode", ["mixed", "psd_general"])
def test_every_raw_entry_has_a_gradient(mode):
    model, tokens = text_model(definite=mode), draw_tokens()
    graphdef, state = nnx.split(model)

    @quick_jit
    @jax.grad
    def slope(state):
        logits = nnx.merge(graphdef, state)(tokens).logits
        return jnp.mean(jax.nn.log_softmax(logits)[:, :, 3])

    found = slope(state)["layers"]["mixer"]["gates"]
    sizes = {"P": 16 * 3 - 6, "v": 3, "S_B": 16 * 3, "K": 9}
    names = ("P", "v") if mode == "mixed" else ("S_B", "K")
    for name in names:
        value = np.asarray(found[name][...])
        assert value.size == 2 * sizes[name] and np.all(value != 0)
    assert set(found) == set(names)


def test_matrices_of_gates_decay_and_their_scales_do_not():
    decayed = {}
    for mode in ("pos", "psd_general"):
        state = nnx.state(text_model(definite=mode))
        for path, on in jax.tree.leaves_with_path(decay_mask(state)):
            names = [getattr(key, "key", "") for key in path]
            if "gates" in names:
                decayed[names[names.index("gates") + 1]] = on
    assert decayed == {"P": True, "v": False, "S_B": True, "K": False}
    sorts = nnx.state(image_model(reorder="corrected"))
    mask = decay_mask(sorts)["sorting"]
    assert not any(jax.tree.leaves(mask)) and jax.tree.leaves(mask)


@pytest.mark.parametrize("mode", ["neg", "psd_general"])
def test_a_free_model_of_the_same_values(mode):
    model, tokens = text_model(definite=mode), draw_tokens()
    free = as_free(model)
    assert free.config == dataclasses.replace(model.config, definite="free")
    # the gate's product of matrices is rounded in one program or in two
    assert_close(free(tokens).logits, model(tokens).logits, 1e-6)
    np.testing.assert_array_equal(as_free(free).embedding[...], free.embedding[...])
    # one token at a time, through the cache
    step = model(tokens[:, 6:], cache=model(tokens[:, :6]).cache).logits[:, -1]
    assert_close(step, model(tokens).logits[:, -1], 2e-6)


def test_a_free_image_model_of_the_same_values():
    model = image_model(definite="mixed", equal_magnitudes=True)
    free, images = as_free(model), draw_images()
    assert free.config.definite == "free" and not free.config.equal_magnitudes
    np.testing.assert_array_equal(free(images), model(images))


def test_analyses_of_definite_models_are_those_of_their_free_like():
    with enable_x64():
        model = text_model(dtype="float64", definite="pos")
        tokens, free = draw_tokens(1, 4), as_free(model)
        mine, other = trace(model, tokens), trace(free, tokens)
        assert_close(mine, other, 1e-14)
        x = mine.residual_in[1]
        factors = [factorise(m.layer(1), x) for m in (model, free)]
        mine, other = (hidden_attention(f, fold=("D", "conv")) for f in factors)
        assert_close(mine, other, 1e-14)
        J, K = (token_jacobian(layer_span(m, 1, 2), x[0]) for m in (model, free))
        assert_close(J, K, 1e-13)


@pytest.mark.parametrize("mode", ["neg", "nsd_general"])
def test_projection_gives_back_what_is_definite(mode):
    with enable_x64():
        model = text_model(dtype="float64", definite=mode)
        free = as_free(model)
        near: Any = project_from_pretrained(free, mode)
        assert near.errors.shape == (2,)
        assert near.errors.max() < 1e-5  # W_x goes through float32
        tokens = draw_tokens()
        assert_close(near.model(tokens).logits, model(tokens).logits, 1e-4)
        assert near.model.config == model.config


@pytest.mark.parametrize("mode", ["pos", "psd_general"])
def test_projection_of_free_models_has_the_signs_and_says_what_is_lost(mode):
    model = text_model()
    near = project_from_pretrained(model, mode, threshold=0.1)
    assert near.errors.min() > 0.1 and near.model.config.definite_threshold == 0.1
    for layer in range(2):
        made, old = layer_system(near.model, layer), layer_system(model, layer)
        assert np.all(gate_spectrum(made).symmetric[-3:] > 0)
        assert np.all(gate_spectrum(made).symmetric[:-3] > -1e-5)
        M, M_old = (np.asarray(s.S_C.T @ s.S_B) for s in (made, old))
        error = np.linalg.norm(M - M_old) / np.linalg.norm(M_old)
        np.testing.assert_allclose(near.errors[layer], error, rtol=1e-4)
        assert_close(made.S_delta, old.S_delta, 0.0)
    same = parameters_of(model)
    for path, value in parameters_of(near.model).items():
        if "gates" not in path and "x_proj" not in path:
            np.testing.assert_array_equal(value, same[path])


def test_projection_of_image_models():
    near: Any = project_from_pretrained(image_model(), "mixed", equal_magnitudes=True)
    assert near.errors.shape == (2, 3) and near.model.config.equal_magnitudes
    assert near.model(draw_images()).shape == (2, 5)


def test_gates_are_drawn_as_documented():
    options: Any = {
        "precision": Precision(*[jnp.dtype("float32")] * 2),
        "rngs": nnx.Rngs(0),
    }
    sizes: Any = {"d_model": 8, "num_layers": 1, "d_state": 3}
    sizes = MixerSizes(**sizes)
    drawn = make_gates(GateSigns(definite="pos"), sizes, **options)
    assert isinstance(drawn, SymmetricGates) and drawn.P.shape == (42,)
    for leaf in (drawn.P[...], drawn.v[...]):
        assert 0.3 * 16**-0.5 < np.abs(leaf).max() <= 16**-0.5
    general = make_gates(GateSigns(definite="psd_general"), sizes, **options)
    assert isinstance(general, SemidefiniteGates)
    np.testing.assert_array_equal(general.K[...], np.eye(3))
    S_B, S_C = general()  # K = L L^T + epsilon
    assert_close(S_C, 1.001 * np.asarray(S_B), 1e-6)


def test_definite_messages():
    for config in (MambaConfig, VimConfig):
        sizes: Any = {"d_model": 8, "num_layers": 2}
        sizes |= {"vocab_size": 9} if config is MambaConfig else {}
        with pytest.raises(
            ValueError, match="definite='odd': give one of free, pos, n"
        ):
            config(**sizes, definite="odd")
        with pytest.raises(
            ValueError, match="do nothing to free gates: leave them out"
        ):
            config(**sizes, definite_threshold=0.1)
        with pytest.raises(
            ValueError, match="does nothing to 'psd_general': leave it o"
        ):
            config(**sizes, definite="psd_general", equal_magnitudes=True)
        with pytest.raises(ValueError, match="definite_threshold must be .*is -1"):
            config(**sizes, definite="pos", definite_threshold=-1)
        with pytest.raises(ValueError, match="17 states and 16 channels: U has a unit"):
            config(**sizes, definite="pos", d_state=17)
    definite = text_model(definite="neg")
    with pytest.raises(ValueError, match="gates are 'neg' already; give as_free"):
        project_from_pretrained(definite, "pos")
    with pytest.raises(ValueError, match="the model is free; give another mode"):
        project_from_pretrained(text_model(), "free")
    zeros = jnp.zeros((2, 3, 16))
    with pytest.raises(
        ValueError, match=r"makes its own gates \('neg'\); give as_free"
    ):
        with_gates(definite, zeros, zeros)
