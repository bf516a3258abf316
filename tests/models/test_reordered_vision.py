"""Vision Mamba whose layers sort their tokens by importance."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, quick_jit
from refined_models import draw_images, fill_model, image_model

from jmamba import MambaConfig, VimConfig, trace
from jmamba.attention import (
    factorise,
    hidden_attention,
    mamba_lrp,
    raw_attention,
    token_vectors,
)
from jmamba.dynamics import (
    TokenSystem,
    anneal_tau,
    importance_scores,
    reordered_scan,
    soft_sort,
    sorting_variances,
)
from jmamba.layers import directions_of
from jmamba.layers.selection import Selection
from jmamba.models.skeleton import parameters_of
from jmamba.ops import selective_scan
from jmamba.refinements import sorting
from jmamba_kernels.versions import enable_x64

HARD: dict[str, Any] = {"reorder": "corrected", "reorder_hard": True}
SIDES = ("forward", "backward")


def exact_images(**options):
    return draw_images(dtype="float64", **options)


def pure_direction(side: Selection, K, u, z, config, place):
    """Return the order and the output of one image's direction by pure functions."""
    r, n = config.dt_rank, config.d_state
    W_x = side.x_proj.kernel[...]
    S_delta = (W_x[:, :r] @ side.dt_proj.kernel[...]).T
    S_B, S_C = W_x[:, r : r + n].T, W_x[:, r + n :].T
    A = -jnp.exp(side.A_log[...])
    system = TokenSystem(S_B, S_C, S_delta, A, side.dt_bias[...])
    kept = np.array([i for i in range(len(u)) if i != place])
    scores = importance_scores(
        system, u[kept], K, is_normalised=config.reorder_normalise
    )
    P = np.zeros((len(u), len(u)))
    if place is not None:
        P[place, place] = 1
    P[np.ix_(kept, kept)] = soft_sort(
        scores, tau=config.reorder_tau, is_hard=config.reorder_hard
    )
    return P, reordered_scan(
        system, u, z, jnp.asarray(P), D=side.D[...], is_autoregressive=False,
        restores_order=config.reorder == "corrected",
    ).y  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"reorder": "official", "class_token": "none"},
        {"reorder": "corrected", "reorder_normalise": True, "reorder_tau": 0.3},
        {"reorder": "corrected", "reorder_hard": True, "class_token": "first"},
    ],
    ids=["official", "corrected", "hard"],
)
def test_mixers_do_what_the_pure_functions_do(changes):
    with enable_x64():
        model = image_model(dtype="float64", **changes)
        block, config = model.layer(1), model.config
        images = exact_images(height=8, width=20)  # places of another grid
        x = block.norm(model.embed(images))
        recurrence = block.mixer.project(x).recurrence
        half, z = jnp.split(block.mixer.in_proj(x), 2, axis=-1)
        total, place = 0.0, model.usual_query(x.shape[1])
        for name, order in zip(SIDES, recurrence.orders, strict=True):
            turn = slice(None, None, -1 if name == "backward" else 1)
            side = getattr(block.mixer, name)
            K = getattr(block.mixer.order, name)[...]
            u, _ = side.activate(half[:, turn])
            if place is not None and name == "backward":
                place = x.shape[1] - 1 - place
            P, y = pure_direction(side, K, u[1], z[1, turn], config, place)
            assert_close(order[1], P, 1e-13)
            assert np.abs(P - np.eye(len(P))).max() > 0.1  # it does sort
            total = total + y[turn]
        expected = block.mixer.out_proj(total * block.mixer.scale)
        assert_close(block.mixer.mix(recurrence)[0][1], expected, 1e-12)


@pytest.mark.parametrize("mode", ["official", "corrected"])
def test_sorting_what_is_sorted_changes_nothing(mode, monkeypatch):
    def rising(selection, u, K):
        places = jnp.arange(u.shape[1], dtype=u.dtype)
        return jnp.broadcast_to(places, u.shape[:2])

    monkeypatch.setattr(sorting, "score_tokens", rising)
    jax.clear_caches()
    with enable_x64():
        images = exact_images()
        model = image_model(dtype="float64", reorder=mode, reorder_hard=True)
        expected = image_model(dtype="float64")(images)
        assert_close(model(images), expected, 1e-14)
    jax.clear_caches()


def test_only_the_chosen_layers_sort():
    with enable_x64():
        images = exact_images()
        model = image_model(dtype="float64", reorder_layers=(1,), **HARD)
        plain = image_model(dtype="float64")
        t: Any = trace(model, images)
        x = model.embed(images)

        @quick_jit
        def step(blocks, x):
            return nnx.merge(*blocks)(x).x

        for i, like in enumerate((plain, model, plain)):
            assert isinstance(model.layer(i).mixer.order, sorting.Sorting) == (i == 1)
            x = step(nnx.split(like.layer(i - 3)), x)
            assert_close(t.residual_out[i], x, 1e-13)
        assert_close(t.logits, model.unembed(x), 1e-13)
        unsorted = step(nnx.split(plain.layer(1)), t.residual_in[1])
        assert np.abs(t.residual_out[1] - unsorted).max() > 1e-3
        orders = np.asarray(t.recurrence.orders.forward)
        identity = np.broadcast_to(np.eye(10), (2, 10, 10))
        np.testing.assert_array_equal(orders[[0, 2]], [identity] * 2)
        assert np.abs(orders[1] - identity).max() == 1
        with pytest.raises(ValueError, match="stack of all layers, of which some sort"):
            model.layers.mixer.project(x)
    with pytest.raises(IndexError, match="layer 3 of a model with 3"):
        model.layer(3)


def test_the_gradient_reaches_the_weights_of_importance():
    for hard in (False, True):
        changes: Any = {"reorder": "corrected", "reorder_hard": hard, "num_layers": 1}
        model, images = image_model(**changes), draw_images()
        graphdef, state = nnx.split(model)

        @quick_jit
        @jax.grad
        def slope(state, graphdef=graphdef, images=images):
            logits = nnx.merge(graphdef, state)(images)
            return jnp.mean(jax.nn.log_softmax(logits)[:, 3])

        for name, K in slope(state)["sorting"].items():
            assert K[...].shape == (1, 16) and np.all(K[...] != 0), name


def test_official_settings_make_fresh_tokens_their_mean():
    """The official code draws all linear maps around 0 with a deviation of 0.02."""

    def fresh(**changes):
        sizes: Any = {
            "num_layers": 1,
            "num_classes": 5,
            "image_size": 28,
            "patch_size": 4,
        }
        config = VimConfig(d_model=24, **sizes, d_state=3, **changes)
        model = fill_model(config, seed=0, dtype="float32")
        linear = ("kernel", "sorting")
        graphdef, state = nnx.split(model)

        def shrink(path, x):
            names = [getattr(key, "key", None) for key in path]
            return x * (0.02 / 0.3) if set(names) & set(linear) else x

        return nnx.merge(graphdef, jax.tree.map_with_path(shrink, state))

    images = draw_images(28, 28)
    collapsed = sorting_variances(fresh(reorder="official"), images)
    assert collapsed.shape == (1, 2, 2) and float(collapsed.max()) < 1e-6
    normal: Any = {
        "reorder": "corrected",
        "reorder_normalise": True,
        "reorder_tau": 0.1,
    }
    assert float(sorting_variances(fresh(**normal), images).min()) > 0.05


def test_shuffled_control_is_one_permutation_for_all_images():
    shuffled: Any = {"reorder": "corrected", "reorder_by": "random", "reorder_seed": 3}
    model, images = image_model(**shuffled), draw_images()
    t: Any = trace(model, images, layers=[0, 2])
    for order in t.recurrence.orders:
        order = np.asarray(order)
        np.testing.assert_array_equal(order, np.broadcast_to(order[0, 0], order.shape))
    forward, backward = (np.asarray(order)[0, 0] for order in t.recurrence.orders)
    for P, place in ((forward, 4), (backward, 5)):  # of the class token
        assert set(P.ravel()) == {0, 1} and P[place, place] == 1
        np.testing.assert_array_equal(P @ P.T, np.eye(10))
        assert np.trace(P) < 5
    assert parameters_of(model).keys() == parameters_of(image_model()).keys()
    other = image_model(**shuffled | {"reorder_seed": 4})
    assert np.abs(other(images) - model(images)).max() > 1e-4
    again = sorting.shuffled_order(9, 3)
    np.testing.assert_array_equal(np.delete(np.delete(forward, 4, 0), 4, 1), again)


def test_a_falling_temperature_hardens_the_order():
    soft: Any = {"reorder": "corrected", "reorder_normalise": True}
    with enable_x64():
        images = exact_images()
        model = image_model(dtype="float64", **soft)
        hard = image_model(dtype="float64", **HARD)(images)
        start, end = (
            model(images, tau=anneal_tau(jnp.array(step), 9, end=1e-5))
            for step in (0.0, 9.0)
        )
        assert_close(start, model(images), 1e-14)
        assert_close(end, hard, 1e-6)
        assert np.abs(start - hard).max() > 1e-3


def test_explanations_go_through_the_order_or_are_refused():
    changes: Any = {"num_layers": 2, "reorder_layers": (1,), "use_conv_bias": False}
    with enable_x64():
        model: Any = image_model(dtype="float64", **HARD, **changes)
        images = exact_images()
        block = model.layer(1)
        t: Any = trace(model, images)
        vectors, bias = token_vectors(block, t.residual_in[1])
        out = t.residual_out[1] - t.residual_in[1]
        assert_close(jnp.sum(vectors, axis=2) + bias, out, 1e-12)
        assert_close(bias, jnp.zeros_like(bias), 1e-12)
        # MambaLRP's relevances add up to the logit, but for the head's bias
        total = jnp.sum(mamba_lrp(model, images, target=2), axis=1)
        logit = model(images)[:, 2] - model.head.bias[...][2][None]
        assert_close(total, logit, 1e-11)
        recurrence = t.layer(1)
        for attention in (
            lambda: hidden_attention(recurrence),
            lambda: raw_attention(model, images),
            lambda: factorise(block, t.residual_in[1]),
        ):
            with pytest.raises(
                ValueError, match="sorts its tokens .*VimConfig.reorder"
            ):
                attention()
        # between the places of the new order it is what the recurrences do
        alpha = hidden_attention(recurrence._replace(orders=None))
        forward, backward = map(hidden_attention, directions_of(recurrence))
        assert_close(alpha, forward + jnp.flip(backward, axis=(2, 3)), 1e-13)
        y = jnp.einsum("bdij,bjd->bid", forward, recurrence.forward.u)
        u, delta, A, B, C = recurrence.forward[:5]
        scanned = selective_scan(u, delta, A, B, C, jnp.zeros(16)).y
        assert_close(y, scanned, 1e-12)


def test_reordering_composes_with_definite_gates_and_remat():
    model, images = image_model(definite="pos", num_layers=1, **HARD), draw_images()
    slopes = []
    for remat in (False, True):
        graphdef, state = nnx.split(model)
        copy = nnx.merge(graphdef, state)
        copy.remat = remat
        graphdef, state = nnx.split(copy)

        @quick_jit
        @jax.grad
        def slope(state, graphdef=graphdef):
            return jnp.sum(nnx.merge(graphdef, state)(images) ** 2)

        found = slope(state)
        slopes.append((found["sorting"], found["layers"]["mixer"]["forward"]["gates"]))
        assert all(np.all(x != 0) for x in jax.tree.leaves(slopes[-1]))
    assert_close(slopes[1], slopes[0], 1e-5)


def test_reordering_messages():
    def make(**changes):
        return VimConfig(d_model=8, num_layers=3, **changes)

    assert make(**HARD, reorder_layers=[2, 0]).sorted_layers == (0, 2)
    assert make().sorted_layers == ()
    with pytest.raises(
        ValueError, match="reorder='odd': give one of none, official, c"
    ):
        make(reorder="odd")
    with pytest.raises(ValueError, match="reorder_by='odd': give one of importance, r"):
        make(reorder="official", reorder_by="odd")
    with pytest.raises(
        ValueError, match="reorder_tau, reorder_hard: does nothing with"
    ):
        make(reorder_tau=2.0, reorder_hard=True)
    with pytest.raises(ValueError, match="reorder_hard: .* reorder_by='random'; leave"):
        make(**HARD, reorder_by="random")
    with pytest.raises(ValueError, match="reorder_seed: does nothing"):
        make(**HARD, reorder_seed=1)
    for layers in ((), (1, 1), (0, 3)):
        with pytest.raises(
            ValueError, match=r"reorder_layers=\(.*\): give different o"
        ):
            make(**HARD, reorder_layers=layers)
    with pytest.raises(ValueError, match="reorder_tau must be .* above 0.* 0.0"):
        make(**HARD, reorder_tau=0.0)
    with pytest.raises(ValueError, match="reorder_seed=-1: give 0 to"):
        make(reorder="official", reorder_by="random", reorder_seed=-1)
    assert (
        dataclasses.replace(
            MambaConfig(vocab_size=9, d_model=8, num_layers=2), d_model=4
        ).d_model
        == 4
    )
    with pytest.raises(ValueError, match="No layer of this model sorts its tokens"):
        sorting_variances(image_model(), draw_images())
