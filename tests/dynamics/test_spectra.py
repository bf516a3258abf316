import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_models import exact_model, exact_trace
from flax import nnx
from helpers import assert_close

import jmamba
from jmamba.dynamics import (
    TokenSystem,
    count_inertia,
    fit_growth,
    gate_spectrum,
    layer_system,
    map_regimes,
    measure_signs,
    measure_trajectories,
    residual_matrix,
    vector_field,
)
from jmamba.layers import run_recurrence
from jmamba.types import Recurrence
from jmamba_kernels.versions import enable_x64


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


@pytest.mark.parametrize("falcon", [False, True])
def test_layer_system_makes_the_gates_of_the_model(falcon):
    changes = {"mixer_rms_eps": 1e-6} if falcon else {}
    recurrence = exact_trace(**changes).layer(1)
    system = layer_system(exact_model(**changes), 1)
    q = jnp.einsum("bign,bjgn->bij", recurrence.C, recurrence.B)
    by_matrix = jnp.einsum("bid,de,bje->bij", recurrence.u, system.M, recurrence.u)
    if falcon:  # up to the positive norms of B[j] and C[i]
        assert np.all(np.sign(q) == np.sign(by_matrix))
        return
    assert_close(q, by_matrix, 1e-13)
    pre = (
        jnp.einsum("bld,ed->ble", recurrence.u, system.S_delta)
        + system.bias[None, None]
    )
    assert_close(jax.nn.softplus(pre), recurrence.delta, 1e-13)
    # so the system's field is what the layer's recurrence puts out
    y, _ = run_recurrence(recurrence._replace(D=None))
    assert_close(vector_field(system, recurrence.u[0]), y[0], 1e-13)


def test_spectra_equal_the_dense_ones():
    system = layer_system(exact_model(), 2)
    spectrum, M = gate_spectrum(system), np.asarray(system.M)

    def largest(values, count):
        return values[np.argsort(-np.abs(values))][:count]

    ours = np.sort_complex(spectrum.eigenvalues)
    theirs = np.sort_complex(largest(np.linalg.eigvals(M), 3))
    np.testing.assert_allclose(ours, theirs, atol=1e-13)
    theirs = np.sort(largest(np.linalg.eigvalsh((M + M.T) / 2), 6))
    np.testing.assert_allclose(spectrum.symmetric, theirs, atol=1e-13)
    stacked = jax.tree.map(
        lambda *x: jnp.stack(x), system, layer_system(exact_model(), 0)
    )
    np.testing.assert_allclose(gate_spectrum(stacked).symmetric[0], theirs, atol=1e-13)


@pytest.mark.parametrize("n, d, expected", [(3, 10, (3, 3, 4)), (4, 8, (4, 4, 0))])
def test_inertia_does_not_depend_on_the_weights(n, d, expected):
    S_B, system = np.zeros((n, d)), None
    for seed in range(5):
        S_B, S_C = np.random.default_rng(seed).standard_normal((2, n, d))
        A, eye = -jnp.ones((d, n)), jnp.eye(d)
        system = TokenSystem(jnp.asarray(S_B), jnp.asarray(S_C), eye, A, jnp.zeros(d))
        assert tuple(count_inertia(system)) == expected
        signs = np.linalg.eigvalsh(np.asarray(system.M + system.M.T))
        dense = (signs > 1e-9).sum(), (signs < -1e-9).sum(), (abs(signs) <= 1e-9).sum()
        assert dense == expected
    # and where S_C = K S_B with K + K^T >= 0 it is semidefinite, not indefinite
    K = np.eye(n) + np.triu(np.ones((n, n)), 1) - np.tril(np.ones((n, n)), -1)
    assert system is not None
    definite = system._replace(S_C=jnp.asarray(K @ S_B))
    assert tuple(count_inertia(definite)) == (n, 0, d - n)


def test_residual_matrix_is_exact_where_the_layer_is_linear():
    model, x = exact_model(), jnp.asarray(np.random.default_rng(2).random((5, 6)))
    mixer = model.layer(0).mixer
    u = x @ mixer.in_proj.kernel[...][:, :10]
    W_x = mixer.x_proj.kernel[...]
    B, C = u @ W_x[:, 2:5], u @ W_x[:, 5:]
    assert_close(x @ residual_matrix(model, 0) @ x.T, C @ B.T, 1e-13)


def by_hand() -> Recurrence:
    """Two tokens, two channels, one state: C.B is [[2, .], [-1, 3]]."""
    u = jnp.array([[[1.0, 2.0], [3.0, -1.0]]])
    delta = jnp.array([[[0.5, 1.0], [0.8, 0.2]]])
    A = jnp.array([[-1.0], [-2.0]])
    B, C = jnp.array([[[1.0], [-3.0]]]), jnp.array([[[2.0], [-1.0]]])
    return Recurrence(u, delta, A, B[:, :, None], C[:, :, None], jnp.ones(2), u)


def test_sign_statistics_by_hand():
    statistics = measure_signs(by_hand())
    assert float(statistics.own[0]) == 1.0 and float(statistics.earlier[0]) == 0.0
    assert float(statistics.fast[0]) == 0.5  # delta above ln 2: 1.0 and 0.8
    np.testing.assert_allclose(statistics.mean_delta, 2.5 / 4)
    own = 0.5 + 1.0 + 0.8 + 0.2
    before = np.exp(-0.8) * 0.5 + np.exp(-2 * 0.2) * 1.0
    np.testing.assert_allclose(statistics.weighted, (own - before) / (own + before))
    y0 = 2 * 0.5 * 1.0, 2 * 1.0 * 2.0
    y1 = (3 * 0.8 * 3 - np.exp(-0.8) * 0.5, -3 * 0.2 - np.exp(-0.4) * 2.0)
    growth = (y0[0] + 3 * y1[0]) / 10, (2 * y0[1] - y1[1]) / 5
    np.testing.assert_allclose(statistics.growth[0], growth)
    regimes = map_regimes(by_hand())
    assert regimes.expands.tolist() == [[True, True]]  # 2 > 0, -1 + 3 > 0
    assert regimes.fast.tolist() == [[[False, True], [True, False]]]


def test_trajectories_agree_with_the_stream():
    trace = exact_trace()
    t = measure_trajectories(trace)
    h = np.concatenate([trace.residual_in, trace.residual_out[-1:]])
    norms = np.linalg.norm(h, axis=-1)
    np.testing.assert_allclose(t.norms, norms, rtol=1e-13)
    np.testing.assert_allclose(t.total_growth[-1], np.log(norms[-1] / norms[0]))
    cosine = (h[1:] * h[:-1]).sum(-1) / (norms[1:] * norms[:-1])
    np.testing.assert_allclose(t.cosine, cosine, rtol=1e-12)
    # |out|^2 = |in|^2 (1 + 2 radial) + |o|^2
    squares = norms[:-1] ** 2 * (1 + 2 * np.asarray(t.radial)) + t.increments**2
    np.testing.assert_allclose(squares, norms[1:] ** 2, rtol=1e-12)


def test_growth_laws_find_their_own():
    k = np.arange(1.0, 9.0)[:, None]
    made = {"power": 3 * k**0.7, "exponential": 2 * np.exp(0.3 * k),
            "logarithmic": 1 + 0.5 * np.log(k)}  # fmt: skip
    rates = {"power": 0.7, "exponential": 0.3, "logarithmic": 0.5}
    for name, norms in made.items():
        laws = fit_growth(jnp.asarray(norms))
        np.testing.assert_allclose(laws[name].rate, rates[name], rtol=1e-10)
        assert min(laws, key=lambda k: float(laws[k].residual[0])) == name


def test_spectra_messages():
    with pytest.raises(IndexError, match="layer 7 of a model with 3 layers"):
        layer_system(exact_model(), 7)
    graphdef, state = nnx.split(exact_model())
    broken = nnx.merge(graphdef, jax.tree.map(lambda x: x * jnp.nan, state))
    with pytest.raises(ValueError, match="S_B of layer 0, S_C of.*not finite"):
        layer_system(broken, 0)
    with pytest.raises(ValueError, match="direction='backward': a layer of this model"):
        layer_system(exact_model(), 0, direction="backward")
    with pytest.raises(ValueError, match="norms at 3 depths or more, but got 2"):
        fit_growth(jnp.ones((2, 1)))


def test_layer_system_makes_the_gates_of_either_direction_of_vim():
    config = jmamba.VimConfig(
        d_model=6, num_layers=2, image_size=4, patch_size=2, num_classes=3, d_state=3
    )
    model = jmamba.Vim(config, rngs=nnx.Rngs(0))
    block = model.layer(1)
    x = jax.random.normal(jax.random.key(0), (1, 5, 6), jnp.float32)
    both = nnx.jit(lambda block, x: block.project(x).recurrence)(block, x)
    for direction in ("forward", "backward"):
        recurrence = getattr(both, direction)
        system = layer_system(model, 1, direction=direction)
        by_matrix = jnp.einsum("bid,de,bje->bij", recurrence.u, system.M, recurrence.u)
        assert_close(
            jnp.einsum("bign,bjgn->bij", recurrence.C, recurrence.B), by_matrix, 1e-5
        )
        pre = (
            jnp.einsum("bld,ed->ble", recurrence.u, system.S_delta)
            + system.bias[None, None]
        )
        assert_close(jax.nn.softplus(pre), recurrence.delta, 1e-5)
        assert residual_matrix(model, 1, direction=direction).shape == (6, 6)
