import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_models import dense, exact_model, exact_trace
from helpers import assert_close, quick_jit

from jmamba.dynamics import (
    PATHS,
    block_eigenvalues,
    depth_exponents,
    diagonal_blocks,
    jacobian_norms,
    layer_span,
    layer_stack,
    log_norms,
    path_map,
    run_paths,
    singular_values,
    token_jacobian,
)
from jmamba.dynamics.trained.exponents import LayerStack
from jmamba_kernels.versions import enable_x64


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


@pytest.fixture
def x():
    return exact_trace().residual_in[1, 0]


def random_directions(x, count):
    draw = np.random.default_rng(3)
    return jnp.asarray(draw.standard_normal((count, *x.shape)))


@pytest.fixture(scope="module")
def pushed():
    """Return three directions at x, and where each path and the block push them."""
    with enable_x64():
        x, model = exact_trace().residual_in[1, 0], exact_model()
        maps = {path: path_map(model, 1, {path}) for path in PATHS}
        maps["some"] = path_map(model, 1, ("value", "delta", "norm"))
        maps["block"] = layer_span(model, 1, 2)

        @quick_jit
        @jax.vmap
        def push(v):
            return {name: jax.jvp(f, (x,), (v,)) for name, f in maps.items()}

        directions = random_directions(x, 3)
        return directions, push(directions)


def test_paths_add_up_to_the_block(pushed):
    _, pushed = pushed
    tangents = {name: tangent for name, (_, tangent) in pushed.items()}
    whole, some = tangents.pop("block"), tangents.pop("some")
    assert_close(sum(tangents.values()), whole, 1e-13)
    assert all(np.abs(part).max() > 1e-3 for part in tangents.values())
    assert_close(tangents["value"] + tangents["delta"] + tangents["norm"], some, 1e-13)
    for name, (value, _) in pushed.items():
        assert_close(value, pushed["block"][0], 1e-14, name)


def test_paths_equal_finite_differences(pushed):
    directions, pushed = pushed
    x, block = exact_trace().residual_in[1, 0], exact_model().layer(1)

    @quick_jit
    @jax.vmap
    def along(steps):
        moved = x[None] + steps[:, None, None] * directions[:1]
        sources = {path: moved[i : i + 1] for i, path in enumerate(PATHS)}
        return run_paths(block, sources)[0]

    step = 1e-3  # fourth order: errors of 1e-16 / step and step^4
    one = step * jnp.eye(len(PATHS))
    near, far = (along(k * one) - along(-k * one) for k in (1, 2))
    difference = (8 * near - far) / (12 * step)
    for i, path in enumerate(PATHS):
        assert_close(pushed[path][1][0], difference[i], 1e-7, path)


def test_paths_reach_as_far_as_they_should(pushed):
    """Output gates and z read u at their own token: the convolution's window."""
    x = exact_trace().residual_in[1, 0]
    first = jnp.zeros_like(x).at[0].set(1.0)

    @quick_jit
    def reach(v):
        return {
            path: jax.jvp(path_map(exact_model(), 1, {path}), (x,), (v,))[1]
            for path in ("identity", "C", "gate", "B")
        }

    moved = {k: np.abs(v).max(axis=1) > 0 for k, v in reach(first).items()}
    assert moved["identity"].tolist() == [True] + [False] * 4
    assert moved["C"].tolist() == [True] * 4 + [False]
    assert moved["gate"].tolist() == [True] + [False] * 4
    assert moved["B"].all()


def test_value_path_is_hidden_attention(x):
    """With the gates fixed, the recurrence is the matrix alpha, and u its input."""
    from jmamba.attention import hidden_attention

    block, recurrence = exact_model().layer(1), exact_trace().layer(1)
    recurrence = jax.tree.map(
        lambda v: v[:1], recurrence._replace(A=recurrence.A[None], D=recurrence.D[None])
    )
    recurrence = recurrence._replace(A=recurrence.A[0], D=recurrence.D[0])
    alpha = (
        hidden_attention(recurrence)[0] + jnp.eye(5)[None] * recurrence.D[:, None, None]
    )
    # d u[j] / d x[k] with the norm's RMS fixed, by another way
    r = jax.lax.rsqrt(jnp.mean(x * x, axis=1, keepdims=True) + block.norm.eps)

    def to_u(x):
        n = (x * r * block.norm.scale[...][None])[None]
        return block.mixer.project(n).recurrence.u[0]

    d_u = quick_jit(jax.jacfwd(to_u))(x)  # j d k m
    W = block.mixer.out_proj.kernel[...]  # d m
    gate = jax.nn.silu(recurrence.z[0])
    expected = jnp.einsum("de,id,dij,jdkm->ikem", W, gate, alpha, d_u)
    value = path_map(exact_model(), 1, {"value"})
    ours = quick_jit(lambda x: token_jacobian(value, x))(x)
    assert_close(ours, expected, 1e-12)


def test_jacobians_agree_forward_reverse_and_by_probes(x):
    f = layer_span(exact_model(), 1, 2)
    forward, reverse, part, probed = quick_jit(
        lambda x: (
            token_jacobian(f, x),
            token_jacobian(f, x, mode="reverse"),
            token_jacobian(f, x, rows=[-1], columns=[0, 3], mode="reverse"),
            jacobian_norms(f, x, probes=2048),
        )
    )(x)
    assert_close(reverse, forward, 1e-12)
    assert_close(part, forward[jnp.array([4])][:, jnp.array([0, 3])], 1e-12)
    norms = np.linalg.norm(forward, axis=(2, 3))
    assert not np.any(np.triu(norms, 1))
    probed = np.asarray(probed)
    lower = np.tril_indices(5)
    assert np.max(np.abs(probed[lower] / norms[lower] - 1)) < 5 * (2 / 2048) ** 0.5 / 2


def test_spectra_equal_those_of_the_dense_jacobian(x):
    f = layer_span(exact_model())
    blocks, top, every = quick_jit(
        lambda x: (
            token_jacobian(f, x),
            singular_values(f, x, 3),
            singular_values(f, x, 30, steps=30),
        )
    )(x)
    J = dense(blocks)
    diagonal = jnp.stack([blocks[i, i] for i in range(5)])
    assert_close(diagonal_blocks(f, x), diagonal, 1e-13)
    ours = block_eigenvalues(f, x).ravel()
    theirs = np.linalg.eigvals(J)
    distance = np.abs(ours[:, None] - theirs[None])
    assert distance.min(axis=0).max() < 1e-9 and distance.min(axis=1).max() < 1e-9
    expected = np.linalg.svd(J, compute_uv=False)
    np.testing.assert_allclose(top, expected[:3], rtol=1e-10)
    np.testing.assert_allclose(every, expected, atol=1e-12 * expected[0])


def test_log_norms_tell_contraction():
    S = jnp.array([[-0.3, 2.0], [-2.0, -0.5]])  # rotation does not matter
    norms = log_norms(lambda x: x + x @ S.T, jnp.ones((3, 2)))
    np.testing.assert_allclose(norms, -0.3, atol=1e-14)
    shear = jnp.array([[-0.3, 2.0], [0.0, -0.3]])  # stable, but it may expand
    np.testing.assert_allclose(
        log_norms(lambda x: x + x @ shear.T, jnp.ones((1, 2))), 0.7, atol=1e-14
    )


def test_depth_exponents_of_a_linear_stack_are_exact():
    draw = np.random.default_rng(4)
    Q = np.linalg.qr(draw.standard_normal((6, 6)))[0]
    rates = np.array([2.0, 1.1, 0.4, -0.3, -1.0, -2.0])
    J = Q @ np.diag(np.exp(rates)) @ Q.T
    stack = LayerStack(
        lambda J, x: (J @ x.ravel()).reshape(x.shape), jnp.tile(J, (60, 1, 1))
    )
    result = depth_exponents(stack, jnp.ones((3, 2)), 6)
    # after aligning, every layer gives the rates; the sum is right from the first
    np.testing.assert_allclose(result.per_layer[-1], rates, atol=1e-9)
    np.testing.assert_allclose(result.per_layer.sum(1), rates.sum(), rtol=1e-11)
    np.testing.assert_allclose(
        jnp.einsum("plm,qlm->pq", result.directions, result.directions),
        np.eye(6),
        atol=1e-13,
    )


def test_depth_exponents_of_a_model_are_those_of_the_product():
    model, x = exact_model(), exact_trace().residual_in[0, 0]
    stack = layer_stack(model)
    result, alone, J = quick_jit(
        lambda x: (
            depth_exponents(stack, x, 30),
            depth_exponents(stack, x, 6, token=2),
            token_jacobian(layer_span(model), x),
        )
    )(x)
    J = dense(J)
    _, log_volume = np.linalg.slogdet(J)
    np.testing.assert_allclose(3 * result.exponents.sum(), log_volume, rtol=1e-10)
    assert_close(result.x, exact_trace().residual_out[-1, 0], 1e-13)
    # one token in its own later values: the product of its diagonal blocks
    _, log_volume = np.linalg.slogdet(J[12:18, 12:18])
    np.testing.assert_allclose(3 * alone.exponents.sum(), log_volume, rtol=1e-10)
    assert float(result.exponents[0]) <= np.log(np.linalg.norm(J, 2)) / 3 + 1


def test_path_messages(x):
    with pytest.raises(ValueError, match="Unknown paths skip; give some of identity,"):
        path_map(exact_model(), 0, {"value", "skip"})
    with pytest.raises(ValueError, match=r"count=0, steps=24\): give 1 <= count"):
        singular_values(layer_span(exact_model()), x, 0)
    with pytest.raises(ValueError, match="count=31: there are 30 directions"):
        depth_exponents(layer_stack(exact_model()), x, 31)
    with pytest.raises(ValueError, match="count=7: there are 6 directions"):
        depth_exponents(layer_stack(exact_model()), x, 7, token=0)
    with pytest.raises(ValueError, match="Unknown mode 'both'; give 'forward' or"):
        token_jacobian(layer_span(exact_model()), x, mode="both")
