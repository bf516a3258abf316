"""Programs over several devices exchange no more than the mathematics needs."""

from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from collectives import exchanges
from flax import nnx
from helpers import differentiable, make_inputs, needs, run_scan
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from random_models import random_text_model, random_tokens

from jmamba.ops.operation import SELECTIVE_SCAN

pytestmark = pytest.mark.usefixtures("optimised_programs")

B, L, D, N = 4, 128, 8, 4
XLA = ("xla_loop", "xla_chunked")
KINDS = {"Auto": AxisType.Auto, "Explicit": AxisType.Explicit}


def mesh(kind, shape=(2, 2)):
    names = ("x", "y")[: len(shape)]
    return jax.make_mesh(shape, names, axis_types=(KINDS[kind],) * len(shape))


def operands(kind, over, **options):
    inputs = make_inputs(batch=B, length=L, channels=D, states=N, **options)
    on = mesh(kind)

    def place(name, x):
        spec = P(*(over.get(letter) for letter in SELECTIVE_SCAN.axes[name]))
        return jax.device_put(x, NamedSharding(on, spec))

    return {name: place(name, x) for name, x in differentiable(inputs).items()}


def scan(implementation):
    inputs = make_inputs(options=())
    return lambda parts: tuple(run_scan(inputs._replace(**parts), implementation))


def gradient(implementation):
    run = scan(implementation)
    return jax.grad(lambda parts: sum(jnp.sum(jnp.sin(x)) for x in run(parts)))


every_kind = pytest.mark.parametrize("kind", KINDS)
every_form = pytest.mark.parametrize("implementation", XLA)


@every_kind
@every_form
def test_scan_itself_exchanges_nothing(implementation, kind):
    parts = operands(kind, {"b": "x", "d": "y"}, options=("D", "z", "delta_bias"))
    assert exchanges(scan(implementation), parts) == []


@every_kind
@every_form
def test_gradient_sums_once_what_devices_share(implementation, kind):
    """The cotangents of B and C over channels, those of parameters over the batch."""
    parts = operands(kind, {"b": "x", "d": "y"}, options=("D", "z", "delta_bias"))
    found = exchanges(gradient(implementation), parts)
    assert {(x.kind, x.is_in_loop) for x in found} == {("all-reduce", False)}
    of_gates, of_parameters = 2 * (B // 2) * L * N, (D // 2) * (N + 2)
    assert sum(x.numbers for x in found) == of_gates + of_parameters


@every_kind
def test_gradient_over_whole_groups_exchanges_nothing(kind):
    parts = operands(kind, {"d": "x", "g": "x"}, groups=2)
    assert exchanges(gradient("xla_chunked"), parts) == []


@needs("pallas_triton")
def test_a_split_kernel_is_the_same_program_again():
    """So the compilation cache has it in the next process too."""
    parts = operands("Auto", {"b": "x", "d": "y"})

    def text():
        return jax.jit(gradient("pallas_triton")).lower(parts).as_text()

    assert "CustomSPMDPartitioning" in text()
    assert text() == text()


def test_weights_are_gathered_for_activations_that_stay():
    """Weights over the axis that splits the batch (fully sharded data parallelism)."""
    batch, length, on = 8, 80, mesh("Explicit", (2,))
    model = random_text_model(d_model=16)

    def place(x):
        axis = x.ndim - 1 - (x.shape[-1] % 2)
        spec = [None] * x.ndim
        spec[axis] = "x" if x.shape[axis] % 2 == 0 else None
        return jax.device_put(x, NamedSharding(on, P(*spec)))

    model = jax.tree.map(place, model)
    tokens = random_tokens(batch, length)
    tokens = jax.device_put(tokens, NamedSharding(on, P("x")))
    found = exchanges(lambda model, tokens: model(tokens).logits, model, tokens)
    assert {x.kind for x in found} >= {"all-gather"}
    assert not [x for x in found if any(length in shape for shape in x.shapes)]


def test_halves_of_a_projection_are_exchanged_once():
    """Of the fused input projection one device has the one half, one the other."""
    model, tokens, on = (
        random_text_model(layers=2),
        random_tokens(4, 16),
        mesh("Explicit", (2,)),
    )
    axes = {"in_proj": 2, "x_proj": 1, "out_proj": 1}  # the rest is small

    def place(path, x):
        names = [getattr(key, "key", None) for key in path]
        axis = next((axes[name] for name in names if name in axes), None)
        spec = [None] * x.ndim
        if "D" in names or axis is not None:
            spec[1 if axis is None else axis] = "x"
        return jax.device_put(x, NamedSharding(on, P(*spec)))

    graphdef, state = nnx.split(model)
    model = nnx.merge(graphdef, jax.tree.map_with_path(place, state))
    tokens = jax.device_put(tokens, NamedSharding(on, P()))
    found = exchanges(lambda model, tokens: model(tokens).logits, model, tokens)
    count = Counter(x.kind for x in found)
    assert count == {"all-to-all": 1, "all-reduce": 2}, count
