"""Programs over several devices exchange no more than the mathematics needs."""

from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from collectives import exchanges
from helpers import differentiable, make_inputs, run_scan
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from random_models import random_text_model, random_tokens

from jmamba.ops.primitives import OPERAND_AXES

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
        spec = P(*(over.get(letter) for letter in OPERAND_AXES[name]))
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


@every_form
def test_parts_of_a_sequence_are_exchanged_for_channels(implementation):
    """Whole sequences of B and C go to each device, of the rest half the channels."""
    parts = operands("Explicit", {"l": "x"})
    found = exchanges(scan(implementation), parts)
    assert not any(x.is_in_loop for x in found)
    count = Counter(x.kind for x in found)
    assert count == {"all-to-all": 3, "all-gather": 3}  # u, delta, y; B, C, last state
    gathered = sum(x.numbers for x in found if x.kind == "all-gather")
    assert gathered == 2 * B * L * N + B * D * N


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
