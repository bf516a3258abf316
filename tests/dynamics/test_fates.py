import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from jmamba.dynamics import TokenSystem, draw_systems, follow_fates, tabulate_fates
from jmamba_kernels.versions import enable_x64

pytestmark = pytest.mark.usefixtures("optimised_programs")  # long to run


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def plane_system(eigenvalues, step_weights) -> TokenSystem:
    eye = jnp.eye(2)
    M, S_delta = (jnp.diag(jnp.array(v)) for v in (eigenvalues, step_weights))
    return TokenSystem(M, eye, S_delta, -eye, jnp.zeros(2))


def test_definite_matrices_decide_and_indefinite_ones_do_not():
    """The pattern of the paper's figure 6, and where it is not what the text says."""
    positive = tabulate_fates(jnp.array([1.0, 0.5]))
    assert positive.some_diverge == 60 and positive.first_repelled == 0
    negative = tabulate_fates(jnp.array([-1.0, -0.5]))
    assert negative.all_converge == 60 and negative.some_diverge == 0
    mixed = tabulate_fates(jnp.array([1.0, -0.5]))
    assert mixed.some_diverge < 60  # "a positive eigenvalue: all diverge" is false
    # P(x^T M x < 0) for a normal x: three deviations of 60 draws
    p = 2 / np.pi * np.arctan(np.sqrt(0.5))
    assert abs(mixed.first_repelled - 60 * p) < 3 * np.sqrt(60 * p * (1 - p))
    assert mixed.first_shrank == mixed.first_repelled > 0
    assert mixed.some_diverge >= 60 - mixed.first_repelled  # the others' first one does


def test_first_token_settles_on_the_null_cone():
    system = plane_system([1.0, -0.5], [-1.0, 1.0])
    fates = follow_fates(system, jnp.array([[0.5, 1.2]]))
    assert not bool(fates.diverges[0]) and not bool(fates.converges[0])
    # a point of rest where x^T M x = 0, and not the origin
    x = np.asarray(fates.x[0])
    np.testing.assert_allclose(x[0] / x[1], np.sqrt(0.5), rtol=1e-5)
    assert x[1] > 0.4
    # on the path from start to end, d ln x_1 / delta_1 = d ln x_2 / delta_2
    ways = [quad(lambda u: 1 / (u * np.log1p(np.exp(-u))), 0.5, x[0])[0],
            quad(lambda u: 1 / (u * np.log1p(np.exp(u))), 1.2, x[1])[0]]  # fmt: skip
    np.testing.assert_allclose(ways[0], ways[1], rtol=1e-6)


def test_first_token_vanishes_while_the_second_diverges():
    system = plane_system([1.0, -0.5], [0.0, 0.0])
    fates = follow_fates(system, jnp.array([[0.1, 1.0], [0.9, 0.3]]))
    assert fates.converges.tolist() == [True, False]
    assert fates.diverges.tolist() == [False, True]


def test_drawn_matrices_have_the_eigenvalues():
    systems, x = draw_systems(jnp.array([-2.0, 0.5, 1.0]), 5, 3, key=jax.random.key(1))
    assert x.shape == (5, 3, 3)
    eigenvalues = jnp.linalg.eigvalsh(systems.M)
    expected = np.tile([-2.0, 0.5, 1.0], (5, 1))
    np.testing.assert_allclose(eigenvalues, expected, atol=1e-13)


def test_fate_messages():
    system = plane_system([1.0, -0.5], [0.0, 0.0])
    with pytest.raises(ValueError, match=r"Tokens \[1\] are zero: .* Leave them out"):
        follow_fates(system, jnp.array([[0.5, 1.2], [0.0, 0.0]]))
    with pytest.raises(ValueError, match=r"must be finite, but their sizes are .nan"):
        follow_fates(system, jnp.array([[0.5, jnp.nan]]))
