"""Analyses of models whose parameters lie on a mesh that is part of types."""

import contextlib
import inspect

import jax
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from random_models import random_text_model, random_tokens

from jmamba import attention, dynamics, tracing
from jmamba.ops.meshes import is_on_any_mesh

MESH = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
SURROUNDINGS = {
    "mesh set": lambda: jax.set_mesh(MESH),
    "no mesh set": contextlib.nullcontext,
}
MODEL, TOKENS = random_text_model(layers=2, d_state=2), random_tokens(2, 6)


def put(x, *spec):
    return jax.device_put(x, NamedSharding(MESH, P(*spec)))


def place(path, x):
    """Spread the last even axis but that of layers, the vocabulary over x."""
    if x.ndim == 2 and "embedding" in str(path):
        return put(x, "x", "y")
    even = [axis for axis in range(1, x.ndim) if x.shape[axis] % 2 == 0]
    spec: list = [None] * x.ndim
    for axis in even[-1:]:
        spec[axis] = "y"
    return put(x, *spec)


def placed():
    graphdef, state = nnx.split(MODEL)
    model = nnx.merge(graphdef, jax.tree.map_with_path(place, state))
    return model, put(TOKENS, "x")


def of_layer(analysis):
    """Return an analysis of the recurrence of a layer."""
    return lambda model, tokens: analysis(tracing.trace(model, tokens).layer(1))


def of_block(analysis):
    """Return an analysis of one block, and what enters it."""

    def run(model, tokens):
        x = tracing.trace(model, tokens).residual_in[1]
        return analysis(model.layer(1), x)

    return run


def of_map(analysis, make=dynamics.layer_span):
    """Return an analysis of a map of tokens, at those of the first text."""

    def run(model, tokens):
        x = MODEL.embed(TOKENS)[0]
        return analysis(make(model), x if model is MODEL else put(x, None, "y"))

    return run


def of_system(analysis):
    return lambda model, tokens: analysis(dynamics.layer_system(model, 1))


def value_path(model):
    return dynamics.path_map(model, 1, {"value"})


def folded(block, x):
    return attention.hidden_attention(attention.factorise(block, x), fold=("gate",))


def of_state(model, tokens):
    f = dynamics.state_map(model, np.asarray(TOKENS[0]))
    state = dynamics.flatten_state(model.empty_cache(1))
    return f(state), dynamics.singular_values(f, state, steps=3)


ANALYSES = {
    "trace": lambda *of: tracing.trace(*of, states=[-1]),
    "measure_layers": attention.measure_layers,
    **{
        name: getattr(attention, name)
        for name in (
            "attention_rollout", "mamba_attribution", "token_norms", "alti",
            "mamba_lrp", "gradient_x_input",
        )
    },
    "hidden_attention": of_layer(attention.hidden_attention),
    "reduced_attention": of_layer(attention.reduced_attention),
    "top_channels": of_layer(lambda one: attention.top_channels(one, 2)),
    "folded attention": of_block(folded),
    "token_vectors": of_block(attention.token_vectors),
    "sequence_exponents": of_layer(dynamics.sequence_exponents),
    "measure_signs": of_layer(dynamics.measure_signs),
    "token_jacobian": of_map(dynamics.token_jacobian, value_path),
    "jacobian_norms": of_map(dynamics.jacobian_norms),
    "depth_exponents": of_map(dynamics.depth_exponents, dynamics.layer_stack),
    "partial_block": of_map(lambda f, x: f(x), lambda m: dynamics.partial_block(m, 1)),
    "gate_spectrum": of_system(dynamics.gate_spectrum),
    "residual_matrix": lambda model, tokens: dynamics.residual_matrix(model, 1),
    "state_map": of_state,
    "report_regimes": dynamics.report_regimes,
    "measure_trajectories": lambda *of: dynamics.measure_trajectories(
        tracing.trace(*of)
    ),
}  # fmt: skip


def numbers(result):
    """Return the arrays of a result, without the maps among them."""
    leaves: list = [np.asarray(x) for x in jax.tree.leaves(result)]
    found = [x for x in leaves if x.dtype.kind in "fciub"]
    return [part for x in found for part in (x.real, x.imag)]


@pytest.mark.parametrize("name", ANALYSES)
def test_analyses_read_typed_models(name):
    """Half of them where a mesh is set: what differs then is the same for all."""
    surroundings = list(SURROUNDINGS.values())[list(ANALYSES).index(name) % 2]
    expected = numbers(ANALYSES[name](MODEL, TOKENS))
    with surroundings():
        found = numbers(ANALYSES[name](*placed()))
    assert expected
    assert_close(found, expected, 1e-5)


def test_results_lie_where_their_types_say():
    model, tokens = placed()
    found = tracing.trace(model, tokens)
    assert isinstance(found.residual_in.sharding, NamedSharding)
    assert found.residual_in.sharding.mesh == MESH
    assert jax.typeof(found.residual_in).sharding.mesh == MESH.abstract_mesh


def test_models_that_lie_nowhere_are_read_where_a_mesh_is_set():
    with jax.set_mesh(MESH):
        trace = tracing.trace(MODEL, TOKENS)
        found = attention.hidden_attention(trace.layer(1))
    expected = attention.hidden_attention(tracing.trace(MODEL, TOKENS).layer(1))
    assert_close(found, expected, 1e-5)


def test_analyses_are_traced_on_typed_models():
    """In a program of the user's results are whole on every device."""
    model, tokens = placed()
    found = jax.jit(lambda *of: tracing.trace(*of).recurrence.delta)(model, tokens)
    assert_close(found, tracing.trace(MODEL, TOKENS).recurrence.delta, 1e-5)
    assert found.is_fully_replicated


def public():
    """Return the analyses of trained models that the faces hand on."""
    rooms = ("jmamba.attention.", "jmamba.dynamics.trained.", "jmamba.tracing.")
    for face in attention, dynamics, tracing:
        for name, value in vars(face).items():
            is_function = inspect.isroutine(inspect.unwrap(value))
            if is_function and value.__module__.startswith(rooms):
                yield pytest.param(value, id=name)


BARE = {
    "run_lengths", "counting_channel", "softmax_head", "softmax_head_error",
}  # fmt: skip
"""Constructions, which no trained model enters."""


@pytest.mark.parametrize("analysis", list(public()))
def test_every_analysis_is_for_any_mesh(analysis):
    assert is_on_any_mesh(analysis) != (analysis.__name__ in BARE)
