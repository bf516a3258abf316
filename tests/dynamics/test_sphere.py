import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from jax.tree_util import Partial

from jmamba.dynamics import (
    TokenSystem,
    attention_field,
    flow_on_sphere,
    interaction_energy,
    project_to_sphere,
    vector_field,
)
from jmamba_kernels.versions import enable_x64

BETA = 1.3


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def random_tokens(length=6, channels=3):
    x = np.random.default_rng(0).standard_normal((length, channels))
    return jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def random_system() -> TokenSystem:
    draw = np.random.default_rng(1)
    S_B, S_C, S_delta = (jnp.asarray(draw.standard_normal((3, 3))) for _ in range(3))
    return TokenSystem(S_B, S_C, S_delta, -jnp.ones((3, 3)), jnp.zeros(3))


FIELDS = {
    "mamba": lambda: Partial(vector_field, random_system()),
    "attention": lambda: Partial(attention_field, beta=jnp.array(BETA)),
    "unnormalised": lambda: Partial(_unnormalised, beta=jnp.array(BETA)),
    "causal": lambda: Partial(_causal, beta=jnp.array(BETA)),
}


def _unnormalised(x, beta):
    return attention_field(x, beta, is_normalised=False)


def _causal(x, beta):
    return attention_field(x, beta, is_causal=True)


@pytest.mark.parametrize("name", FIELDS)
def test_tokens_stay_on_the_sphere(name):
    flow = flow_on_sphere(FIELDS[name](), random_tokens(), jnp.array([0.0, 1.0, 10.0]))
    assert bool(flow.is_finished)
    np.testing.assert_allclose(np.linalg.norm(flow.states, axis=2), 1.0, atol=1e-7)


@pytest.mark.parametrize("name", ["attention", "unnormalised"])
def test_energy_never_decreases_and_rises_by_the_squared_speed(name):
    field, x = FIELDS[name](), random_tokens()
    flow = flow_on_sphere(field, x, jnp.linspace(0, 8, 41))
    energies = np.array([interaction_energy(x, BETA) for x in flow.states])
    assert np.all(np.diff(energies) > -1e-9) and energies[-1] > energies[0] + 0.1
    v = project_to_sphere(x, field(x))
    _, rise = jax.jvp(lambda x: interaction_energy(x, BETA), (x,), (v,))
    Z = np.ones(6) if name == "unnormalised" else np.exp(BETA * x @ x.T).sum(1) / 6
    np.testing.assert_allclose(rise, np.mean(Z * np.sum(v * v, axis=1)), rtol=1e-12)


def test_attention_is_a_loop_over_tokens():
    x = np.asarray(random_tokens())
    for is_causal in (False, True):
        for is_normalised in (False, True):
            expected = np.zeros_like(x)
            for i in range(6):
                seen = range(i + 1) if is_causal else range(6)
                weights = {j: np.exp(BETA * x[i] @ x[j]) for j in seen}
                Z = sum(weights.values()) if is_normalised else 6
                expected[i] = sum(w * x[j] for j, w in weights.items()) / Z
            ours = attention_field(
                jnp.asarray(x), BETA, is_causal=is_causal, is_normalised=is_normalised
            )
            assert_close(ours, expected, 1e-14)


def test_first_token_attracts_the_others_under_causal_attention():
    x = random_tokens()
    flow = flow_on_sphere(FIELDS["causal"](), x, jnp.array([0.0, 300.0]))
    np.testing.assert_allclose(flow.states[1], np.tile(x[0], (6, 1)), atol=1e-6)


def test_first_token_of_mamba_rests_where_step_sizes_are_equal():
    # S_delta = 0 makes F[0] parallel to x[0]; the others move
    system = random_system()._replace(S_delta=jnp.zeros((3, 3)))
    x = random_tokens()
    v = project_to_sphere(x, vector_field(system, x))
    np.testing.assert_allclose(v[0], 0, atol=1e-15)
    assert np.linalg.norm(v[1:], axis=1).min() > 1e-3


def test_tangent_is_orthogonal():
    x = random_tokens() * 3.0  # of any length
    v = project_to_sphere(x, random_tokens()[::-1])
    np.testing.assert_allclose(jnp.sum(v * x, axis=1), 0, atol=1e-14)


def test_sphere_refuses_a_zero_token():
    with pytest.raises(ValueError, match="Token 1 is zero and has no direction"):
        x = jnp.array([[1.0, 0.0], [0.0, 0.0]])
        flow_on_sphere(FIELDS["causal"](), x, jnp.ones(2))
