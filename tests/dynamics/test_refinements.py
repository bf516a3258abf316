import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_models import exact_model, exact_trace
from flax import nnx
from helpers import assert_close, quick_jit
from hypothesis import given
from hypothesis import strategies as st

import jmamba
from jmamba.dynamics import (
    MODES,
    DefiniteGates,
    TokenSystem,
    count_inertia,
    definite_gates,
    draw_gates,
    gate_decay_mask,
    gate_spectrum,
    importance_scores,
    layer_system,
    live_entries,
    remaining_variance,
    reordered_scan,
    semidefinite_gate,
    signed_scales,
    soft_sort,
)
from jmamba.layers import run_recurrence
from jmamba.surgery import project_gates, with_gates
from jmamba_kernels.versions import enable_x64


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def golden() -> DefiniteGates:
    P = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8], [0.9, 1, 1.1, 1.2]]
    return DefiniteGates(jnp.array(P), jnp.array([0.0, 1.0, -1.0]))


def matrix(S_B, S_C):
    return np.asarray(S_C).T @ np.asarray(S_B)


def test_golden_definite_gates():
    S_B, S_C = definite_gates(golden(), "pos")
    U = [[1, 0.2, 0.3, 0.4], [0, 1, 0.7, 0.8], [0, 0, 1, 1.2]]
    np.testing.assert_array_equal(S_C, U)
    d = [1.3931471806, 2.0132616875, 1.0132616875]
    np.testing.assert_allclose(np.diag(S_B), d, rtol=1e-10)
    positive = [0, 0.83156074502, 1.2996663997, 6.4265386302]
    eigenvalues = np.linalg.eigvalsh(matrix(S_B, S_C))
    np.testing.assert_allclose(eigenvalues, positive, atol=1e-9)
    negative = np.linalg.eigvalsh(matrix(*definite_gates(golden(), "neg")))
    np.testing.assert_allclose(-negative[::-1], positive, atol=1e-9)
    mixed = definite_gates(golden(), "mixed")
    np.testing.assert_allclose(
        np.diag(mixed[0]), [0.6931471806, -1.3132616875, -0.3132616875], rtol=1e-9
    )
    expected = [-3.0992095315, -0.30514371215, 0, 0.73690719457]
    found = np.linalg.eigvalsh(matrix(*mixed))
    np.testing.assert_allclose(found, expected, atol=1e-9)


@given(seed=st.integers(0, 10**6), size=st.floats(0.1, 5.0), states=st.integers(1, 4))
def test_signs_hold_for_any_parameters(seed, size, states):
    with enable_x64():
        draw = np.random.default_rng(seed)
        P = jnp.asarray(size * draw.standard_normal((states, 7)))
        v = jnp.asarray(draw.standard_normal(states))
        expected = {"pos": (states, 0), "neg": (0, states)}
        expected["mixed"] = (states // 2, states - states // 2)
        for mode in MODES:
            S_B, S_C = definite_gates(DefiniteGates(P, v), mode)
            system = TokenSystem(S_B, S_C, jnp.eye(7), -jnp.ones((7, states)), P[0])
            assert tuple(count_inertia(system, tolerance=1e-12))[:2] == expected[mode]


def test_equal_magnitudes_differ_in_sign_alone():
    v = golden().v
    scales = {m: signed_scales(v, m, equal_magnitudes=True) for m in MODES}
    np.testing.assert_array_equal(np.abs(scales["mixed"]), scales["pos"])
    np.testing.assert_array_equal(scales["pos"], -scales["neg"])
    official = signed_scales(v, "mixed")
    assert np.abs(official).max() < np.abs(scales["mixed"]).max()


def test_semidefinite_gate_is_definite_and_not_symmetric():
    S_B, L, T = (
        jnp.asarray(np.random.default_rng(i).standard_normal(shape))
        for i, shape in enumerate([(3, 7), (3, 3), (3, 3)])
    )
    for sign in (1, -1):
        M = matrix(S_B, semidefinite_gate(S_B, L, T, sign=sign))
        values = sign * np.linalg.eigvalsh(M + M.T)
        assert values.min() > -1e-12 and (values > 1e-4).sum() == 3
        assert np.abs(M - M.T).max() > 0.1
    # onto: every S_C = K S_B with K + K^T > 0 is reached
    K = np.array([[2.0, 1.0, 0.0], [-1.0, 1.0, 0.5], [0.3, 0.0, 1.5]])
    L = jnp.asarray(np.linalg.cholesky((K + K.T) / 2))
    T = jnp.asarray(np.triu((K - K.T) / 2))
    S_C = semidefinite_gate(S_B, L, T, epsilon=0.0)
    assert_close(S_C, K @ np.asarray(S_B), 1e-14)


def test_gates_train_in_a_model_and_only_live_entries_move():
    model, tokens = exact_model(), jnp.array([[3, 1, 4, 1, 5, 9, 2, 6]])
    gates = draw_gates(3, 3, 10, key=jax.random.key(0), dtype=jnp.float64)
    graphdef, state = nnx.split(model)

    @quick_jit
    @jax.value_and_grad
    def loss(gates):
        made = with_gates(nnx.merge(graphdef, state), *definite_gates(gates, "pos"))
        logits = jax.nn.log_softmax(made(tokens).logits[0, :-1])
        return -jnp.mean(logits[jnp.arange(7), tokens[0, 1:]])

    before, gradient = loss(gates)
    live = np.broadcast_to(live_entries(3, 10), gates.P.shape)
    assert np.all((np.asarray(gradient.P) != 0) == live) and np.all(gradient.v != 0)
    np.testing.assert_array_equal(gate_decay_mask(gates).P, live)
    assert not np.any(gate_decay_mask(gates).v)
    moved = jax.tree.map(lambda x, g: x - 0.05 * g, gates, gradient)
    assert float(loss(moved)[0]) < float(before)
    trained = with_gates(model, *definite_gates(moved, "pos"))
    for layer in range(3):
        assert count_inertia(layer_system(trained, layer))[:2] == (3, 0)
    # what is not a gate is what it was, and the given model stays as it is
    assert_close(layer_system(trained, 1).S_delta, layer_system(model, 1).S_delta, 0.0)
    assert count_inertia(layer_system(model, 1))[:2] == (3, 3)


def test_gates_are_saved_with_the_model(tmp_path):
    model = exact_model()
    gates = draw_gates(3, 3, 10, key=jax.random.key(1), dtype=jnp.float64)
    made = with_gates(model, *definite_gates(gates, "neg"))
    made.save_pretrained(tmp_path / "negative", tokenizer="bytes")
    again = jmamba.MambaLM.from_pretrained(tmp_path / "negative", dtype=jnp.float64)
    for name in ("S_B", "S_C"):
        saved = getattr(layer_system(again, 2), name)
        assert_close(saved, getattr(layer_system(made, 2), name), 0.0)


def test_projection_keeps_what_is_definite_and_reports_what_is_not():
    gates = draw_gates(1, 3, 10, key=jax.random.key(2), dtype=jnp.float64)
    S_B, S_C = (x[0] for x in definite_gates(gates, "neg"))
    rest = jnp.eye(10), -jnp.ones((10, 3)), jnp.zeros(10)
    near = project_gates(TokenSystem(S_B, S_C, *rest), "neg")
    assert near.error < 1e-12
    np.testing.assert_allclose(near.gates.v, gates.v[0], rtol=1e-10)
    # a free layer is far from any of them, but the start has the right signs
    far = project_gates(layer_system(exact_model(), 0), "pos")
    S_B, S_C = definite_gates(far.gates, "pos")
    made = TokenSystem(S_B, S_C, *rest)
    M = matrix(*layer_system(exact_model(), 0)[:2])
    error = np.linalg.norm(matrix(S_B, S_C) - M) / np.linalg.norm(M)
    np.testing.assert_allclose(far.error, error, rtol=1e-10)
    assert np.all(gate_spectrum(made).symmetric[-3:] > 0) and far.error > 0.1


def test_golden_soft_sort():
    scores = jnp.array([0.1, 0.5, -0.3])
    rows = [[0.3162410582, 0.2119827207, 0.4717762211],
            [0.4272335603, 0.2863832198, 0.2863832198],
            [0.3162410582, 0.4717762211, 0.2119827207]]  # fmt: skip
    np.testing.assert_allclose(soft_sort(scores), rows, atol=1e-10)
    np.testing.assert_allclose(soft_sort(scores).sum(1), 1.0)
    permutation = np.eye(3)[[2, 0, 1]]
    np.testing.assert_allclose(soft_sort(scores, tau=1e-3), permutation, atol=1e-12)
    np.testing.assert_array_equal(soft_sort(scores, is_hard=True), permutation)


def test_hard_sort_is_a_permutation_on_ties_with_the_soft_derivative():
    scores = jnp.array([1.0, 0.0, 1.0, 0.0])
    P = np.asarray(soft_sort(scores, is_hard=True))
    np.testing.assert_allclose(P, np.eye(4)[[1, 3, 0, 2]], atol=1e-15)
    scores = jnp.array([0.3, -0.2, 0.9])
    hard, soft = (
        jax.jacfwd(lambda s, h=h: soft_sort(s, power=2.0, is_hard=h))(scores)
        for h in (True, False)
    )
    assert_close(hard, soft, 1e-15)
    assert np.abs(soft).max() > 0.1


def test_scores_do_not_depend_on_the_bias():
    system, u = layer_system(exact_model(), 1), exact_trace().layer(1).u[0]
    K = jnp.asarray(np.random.default_rng(0).standard_normal(10))
    scores = importance_scores(system, u, K)
    with_bias = (u @ system.S_delta.T + system.bias[None]) @ K
    assert_close(soft_sort(scores), soft_sort(with_bias), 1e-13)
    normal = importance_scores(system, u, K, is_normalised=True)
    np.testing.assert_allclose([normal.mean(), normal.std()], [0, 1], atol=1e-14)
    np.testing.assert_array_equal(jnp.argsort(normal), jnp.argsort(scores))


def test_small_scores_collapse_tokens_unless_normalised():
    draw = np.random.default_rng(1)
    x = jnp.asarray(draw.standard_normal((49, 20)))
    S_delta = jnp.asarray(
        0.02 * 0.02 * draw.standard_normal((20, 20))
    )  # two fresh maps
    system = TokenSystem(x[:2], x[:2], S_delta, -jnp.ones((20, 2)), jnp.zeros(20))
    K = jnp.asarray(0.02 * draw.standard_normal(20))
    official = soft_sort(importance_scores(system, x, K))
    assert float(remaining_variance(official, x)) < 1e-6
    scores = importance_scores(system, x, K, is_normalised=True)
    normal = soft_sort(scores, tau=0.1)
    assert float(remaining_variance(normal, x)) > 0.05
    hard = soft_sort(scores, is_hard=True)
    np.testing.assert_allclose(remaining_variance(hard, x), 1.0)


def test_reordering_by_the_identity_changes_nothing():
    system, recurrence = layer_system(exact_model(), 1), exact_trace().layer(1)
    u, z = recurrence.u[0], recurrence.z[0]
    expected, _ = run_recurrence(recurrence, is_gated=True)
    sorted_scores = jnp.arange(5.0)  # in order already
    P = soft_sort(sorted_scores, is_hard=True)
    for restores in (True, False):
        y, _ = reordered_scan(
            system,
            u,
            z,
            P,
            D=recurrence.D,
            is_autoregressive=False,
            restores_order=restores,
        )
        assert_close(y, expected[0], 1e-13)


def test_restored_order_commutes_with_permuting_all_tokens():
    """Sorted outputs belong to tokens, not to places; in the official mode they do."""
    system, recurrence = layer_system(exact_model(), 1), exact_trace().layer(1)
    u, z, D = recurrence.u[0], recurrence.z[0], recurrence.D
    turn = jnp.array([3, 0, 4, 1, 2])

    def run(u, z, restores):
        P = soft_sort(importance_scores(system, u), is_hard=True)
        return reordered_scan(
            system, u, z, P, D=D, is_autoregressive=False, restores_order=restores
        ).y

    assert_close(run(u[turn], z[turn], True), run(u, z, True)[turn], 1e-13)
    official = run(u[turn], z[turn], False), run(u, z, False)[turn]
    assert np.abs(official[0] - official[1]).max() > 1e-3


def test_refinement_messages():
    system, recurrence = layer_system(exact_model(), 1), exact_trace().layer(1)
    with pytest.raises(ValueError, match="let later tokens change earlier outputs"):
        reordered_scan(
            system, recurrence.u[0], recurrence.z[0], jnp.eye(5), is_autoregressive=True
        )
    with pytest.raises(ValueError, match="Unknown mode 'free'; give one of pos, neg"):
        definite_gates(golden(), "free")
    with pytest.raises(ValueError, match="5 states and 4 channels: .* channels >= sta"):
        draw_gates(1, 5, 4, key=jax.random.key(0))
    with pytest.raises(ValueError, match="sign=0: give 1 or -1"):
        semidefinite_gate(jnp.eye(2), jnp.eye(2), jnp.eye(2), sign=0)
    with pytest.raises(
        ValueError, match=r"do not fit the model: both must be \(3, 3, 10"
    ):
        with_gates(exact_model(), golden().P[None], golden().P[None])
    with pytest.raises(ValueError, match="tau=0.0: give a positive one"):
        soft_sort(jnp.ones(3), tau=0.0)
    singular = system._replace(S_C=system.S_C.at[:, 0].set(0.0))
    with pytest.raises(ValueError, match="S_C cannot be factored: pivot 0 is zero"):
        project_gates(singular, "pos")
