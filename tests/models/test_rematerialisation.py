"""What the backward pass keeps, and what it computes again."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from helpers import assert_close
from jax import checkpoint_policies as policies
from tiny_models import random_tokens, remake, tiny_model

from jmamba.layers import PLACES
from jmamba.ops.primitives import cotangent_p, scan_p

pytestmark = pytest.mark.usefixtures("optimised_programs")

SAVE_NAMED = policies.save_only_these_names
BOTH = policies.save_from_both_policies


def backward(remat):
    """Return the gradient, and how often its program holds scans and products."""
    model = remake(tiny_model(), remat=remat)
    graphdef, state = nnx.split(model)
    tokens = random_tokens(2, 6)

    def loss(state):
        return jnp.sum(jnp.square(nnx.merge(graphdef, state)(tokens).logits))

    program = jax.make_jaxpr(jax.grad(loss))(state)
    counts = {p: _count(program.jaxpr, p) for p in (scan_p, cotangent_p)}
    products = _count(program.jaxpr, jax.lax.dot_general_p)
    return jax.jit(jax.grad(loss))(state), counts, products


def _count(jaxpr, primitive) -> int:
    """Count the equations of a primitive in a program, however deep inside."""
    count = 0
    for equation in jaxpr.eqns:
        count += equation.primitive is primitive
        for parameter in jax.tree.leaves(equation.params, is_leaf=_is_program):
            if _is_program(parameter):
                count += _count(getattr(parameter, "jaxpr", parameter), primitive)
    return count


def _is_program(x) -> bool:
    return hasattr(x, "eqns")


@pytest.fixture(scope="module")
def plain():
    return backward(False)


@pytest.mark.parametrize(
    ("policy", "scans"),
    [
        (True, 2),
        (policies.nothing_saveable, 2),
        (policies.everything_saveable, 1),
        (policies.dots_saveable, 1),
        (policies.dots_with_no_batch_dims_saveable, 1),
        (SAVE_NAMED("scan"), 1),
        (SAVE_NAMED("gated"), 2),
        (BOTH(policies.dots_saveable, SAVE_NAMED("residual_in")), 1),
    ],
    ids=["bool", "nothing", "all", "dots", "no batch", "scan", "gated", "both"],
)
def test_policies_say_what_is_computed_again(policy, scans, plain):
    gradient, counts, _ = backward(policy)
    assert counts == {scan_p: scans, cotangent_p: 1}
    assert_close(gradient, plain[0], 1e-5)


def test_policy_that_saves_products_computes_none_again(plain):
    assert plain[1] == {scan_p: 1, cotangent_p: 1}
    assert backward(policies.dots_saveable)[2] == plain[2] < backward(True)[2]


def test_every_place_is_named():
    model, tokens = tiny_model(), random_tokens(1, 4)
    program = str(
        jax.make_jaxpr(lambda tokens: model(tokens, cache=model.empty_cache(1)))(tokens)
    )
    for place in {*PLACES} - {"y"}:  # which is fused with the gate
        assert f"name[name={place}]" in program, place
