"""Explanations by gradients: completeness, conservation, and what they reduce to."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, quick_jit
from random_models import random_text_model, random_tokens
from scipy.integrate import quad_vec
from scipy.ndimage import gaussian_filter
from vision_definition import draw_images, tiny_vim

from jmamba import VimConfig
from jmamba.attention import (
    METHODS,
    Contrast,
    completeness_gap,
    estimate_smooth_grad,
    explain,
    gradient_x_input,
    heat_map,
    integrated_gradients,
    mamba_lrp,
    patch_grid,
    smooth_grad,
)
from jmamba.attention.relevance.completeness import blur, embed_baseline
from jmamba.layers import run_recurrence
from jmamba.layers.freezing import MAMBA_LRP, NOTHING, UNIFIED, gate
from jmamba.models.vim import normalise
from jmamba_kernels.versions import enable_x64

KINDS = pytest.mark.parametrize("kind", ["text", "image"])
TARGET = 3


@cache
def model_of(kind, dtype="float32") -> Any:
    if kind == "image":
        return tiny_vim(dtype=dtype)
    extra = {"mixer_rms_eps": 1e-6, "dt_rank": 3} if kind == "falcon" else {}
    return random_text_model(layers=2, dtype=dtype, **extra)


def inputs_of(kind):
    return jnp.asarray(draw_images()) if kind == "image" else random_tokens()


def logit(model, x, frozen=NOTHING):
    x = model.run_layers(x, frozen=frozen).x
    logits = model.read(x, None, frozen=frozen)
    return logits[:, TARGET]


@KINDS
def test_gradient_x_input_is_a_slope(kind):
    """The sum over tokens is the derivative when all embeddings grow alike."""
    model, inputs = model_of(kind), inputs_of(kind)
    x, one = model.embed(inputs), jnp.array(1.0)
    _, slope = quick_jit(
        lambda x: jax.jvp(lambda t: logit(model, t * x), (one,), (one,))
    )(x)
    found = gradient_x_input(model, inputs, target=TARGET)
    assert_close(jnp.sum(found, axis=1), slope, 1e-5)
    still = smooth_grad(model, inputs, target=TARGET, noise=0.0, samples=2)
    assert_close(still, found, 1e-5)


def test_smooth_grad_is_the_mean_over_its_noise():
    model, inputs = model_of("image"), inputs_of("image")
    key = jax.random.key(5)
    found = smooth_grad(model, inputs, target=TARGET, samples=3, noise=0.2, key=key)

    @quick_jit
    def expected(x):
        extent = (x.max((1, 2)) - x.min((1, 2)))[:, None, None]
        slope = jax.grad(lambda x: jnp.sum(logit(model, x)))
        total = jnp.zeros_like(x)
        for one in jax.random.split(key, 3):
            total += slope(x + 0.2 * extent * jax.random.normal(one, x.shape))
        return jnp.sum(x * total / 3, axis=-1)

    assert_close(found, expected(model.embed(inputs)), 1e-5)


@KINDS
@pytest.mark.parametrize("baseline", ["mean", "inputs"])
def test_integrated_gradients_are_complete(kind, baseline):
    model, inputs = model_of(kind), inputs_of(kind)
    x = model.embed(inputs)
    if baseline == "inputs":
        start, baseline = jnp.zeros_like(inputs), jnp.zeros_like(inputs)
    elif kind == "text":
        start = jnp.broadcast_to(jnp.mean(model.embedding[...], axis=0), x.shape)
    else:
        mean = jnp.mean(inputs, axis=(1, 2), keepdims=True)
        start = jnp.broadcast_to(mean, inputs.shape)
    start = start if start.shape == x.shape else model.embed(start)
    # the mean of random embeddings is small, so that norms switch on at small t
    steps = 512 if kind == "text" and isinstance(baseline, str) else 64
    found = integrated_gradients(
        model, inputs, target=TARGET, baseline=baseline, steps=steps
    )
    change = logit(model, x) - logit(model, start)
    assert_close(jnp.sum(found, axis=1), change, 1e-4)
    gap = completeness_gap(model, inputs, found, target=TARGET, baseline=baseline)
    assert_close(jnp.sum(found, axis=1) - gap, change, 1e-5)


def test_baselines_of_a_text_are_tokens_an_id_or_embeddings():
    model, inputs = model_of("text"), inputs_of("text")
    spaces = jnp.full_like(inputs, 5)
    embedded = model.embed(spaces)
    row = embedded[0, 0]
    expected = integrated_gradients(model, inputs, target=TARGET, baseline=spaces)
    for baseline in (5, np.int32(5), embedded, embedded[0], row):
        found = integrated_gradients(model, inputs, target=TARGET, baseline=baseline)
        assert_close(found, expected, 1e-6)
    for wrong in (inputs[:, :2], 0.5, "black", row[:-1]):
        with pytest.raises(ValueError, match=r"baseline.*a token id, tokens \(2, 7\)"):
            integrated_gradients(model, inputs, baseline=wrong)
    with pytest.raises(ValueError, match="24"):
        integrated_gradients(model, inputs, baseline=24)


def test_an_integral_that_has_not_converged_is_said():
    """From embeddings of 0 the norms switch on one after the other, at small t."""
    model, inputs = model_of("text"), inputs_of("text")
    with pytest.warns(UserWarning, match="has not converged with steps=4; give more"):
        found = integrated_gradients(model, inputs, baseline="zero", steps=4)
    quiet = jax.jit(lambda x: integrated_gradients(model, x, baseline="zero", steps=4))
    assert_close(quiet(inputs), found, 1e-5)  # nobody to warn inside


@pytest.mark.parametrize("baseline", [5, "zero"])
def test_halved_panels_equal_adaptive_quadrature(baseline):
    """SciPy's quadrature knows nothing of the model's norms either."""
    with enable_x64():
        model, inputs = model_of("text", "float64"), inputs_of("text")[:1]
        x = model.embed(inputs)
        start = model.embed(jnp.full_like(inputs, 5)) if baseline == 5 else 0.0 * x
        slope = quick_jit(jax.grad(lambda x: jnp.sum(logit(model, x))))

        def integrand(t):
            return np.asarray(jnp.sum((x - start) * slope(start + t * (x - start)), -1))

        expected, error = quad_vec(
            integrand, 0, 1, epsabs=1e-9, points=[1e-6, 1e-5, 1e-4, 1e-3, 1e-2]
        )
        assert error < 1e-8
        found = integrated_gradients(
            model, inputs, target=TARGET, baseline=baseline, steps=16, tolerance=1e-9
        )
        assert_close(found, expected, 1e-6)


def test_a_tolerance_that_rounding_forbids_is_said():
    model, inputs = model_of("text"), inputs_of("text")
    with pytest.raises(ValueError, match=r"tolerance=2: give a part of the change"):
        integrated_gradients(model, inputs, tolerance=2)
    with pytest.raises(ValueError, match="inside jit, vmap or grad: give steps="):
        jax.jit(lambda x: integrated_gradients(model, x, tolerance=0.1))(inputs)
    with pytest.warns(UserWarning, match="not converged to tolerance=1e-07; give a la"):
        module = "jmamba.attention.relevance.integrated_gradients.MOST_PANELS"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, 2)
            integrated_gradients(
                model, inputs, target=TARGET, baseline="zero", tolerance=1e-7
            )


def test_named_baselines_of_pictures():
    model, images = model_of("image"), inputs_of("image")
    black = np.broadcast_to(normalise(np.zeros(3, np.float32)), images.shape)
    assert_close(embed_baseline(model, images, "black"), model.embed(black), 1e-6)
    flat = jnp.broadcast_to(images[:, :1, :1], images.shape)
    blurred = embed_baseline(model, flat, "blurred")
    assert_close(blurred, model.embed(flat), 1e-5)  # weights add up to 1
    side = images.shape[1]
    expected = (
        gaussian_filter(
            np.asarray(images),
            (side / 8, side / 8),
            axes=(1, 2),
            mode="constant",
            truncate=12,
        )
        / gaussian_filter(
            np.ones((side, side)), side / 8, mode="constant", truncate=12
        )[..., None]
    )
    assert_close(blur(images), expected, 1e-6)
    found = embed_baseline(model, images, "blurred")
    assert_close(found, model.embed(blur(images)), 1e-6)
    with pytest.raises(ValueError, match="'mean', 'black', 'blurred', 'zero', pictu"):
        integrated_gradients(model, images, baseline="pad")


def test_the_baseline_of_padding_needs_a_token_that_fills():
    model, inputs = model_of("text"), inputs_of("text")
    with pytest.raises(ValueError, match="names no token that fills: give the id"):
        integrated_gradients(model, inputs, baseline="pad")
    padding = random_text_model(layers=2, pad_token_id=5)
    assert_close(
        embed_baseline(padding, inputs, "pad"), embed_baseline(padding, inputs, 5), 1e-6
    )


def test_the_error_of_smooth_grad_is_that_of_a_mean():
    model, inputs = model_of("text"), inputs_of("text")
    options: Any = {"target": TARGET, "noise": 0.2}
    parts = [
        smooth_grad(model, inputs, samples=1, key=seed, **options) for seed in range(24)
    ]
    estimate = estimate_smooth_grad(model, inputs, samples=24, key=99, **options)
    expected = np.std(parts, axis=0, ddof=1) / np.sqrt(24)
    ratio = np.asarray(estimate.error) / expected
    assert 0.75 < np.median(ratio) < 1.33  # two deviations of 24 samples each
    off = (estimate.relevance - np.mean(parts, axis=0)) / np.hypot(
        estimate.error, expected
    )
    assert np.sqrt(np.mean(off**2)) < 2
    whole = smooth_grad(model, inputs, samples=24, key=99, **options)
    assert_close(estimate.relevance, whole, 1e-6)
    with pytest.raises(ValueError, match="samples=1, noise=0.15: give at least two"):
        estimate_smooth_grad(model, inputs, samples=1)


@KINDS
@pytest.mark.parametrize("method", ["mamba_lrp", "gradient_x_input", "alti_logit"])
def test_a_contrast_is_the_difference_of_two_targets(kind, method):
    """These are linear in what is explained."""
    model, inputs = model_of(kind), inputs_of(kind)
    first, second = (explain(model, inputs, method, target=target) for target in (3, 1))
    found = explain(model, inputs, method, target=Contrast(3, [1, 1]))
    assert_close(found, first - second, 1e-5)
    predicted = explain(model, inputs, method, target=Contrast(None, 1))
    best = jnp.argmax(model.read(model.run_layers(model.embed(inputs)).x), axis=-1)
    named = explain(model, inputs, method, target=Contrast(best, 1))
    assert_close(predicted, named, 1e-6)
    with pytest.raises(ValueError, match="against=99 is out of range"):
        explain(model, inputs, method, target=Contrast(3, 99))


# MambaLRP -----------------------------------------------------------------------------


@KINDS
def test_frozen_forward_passes_have_the_same_values(kind):
    model = model_of(kind)

    @quick_jit
    def run(x):
        return [logit(model, x, frozen) for frozen in (NOTHING, UNIFIED, MAMBA_LRP)]

    plain, unified, lrp = run(model.embed(inputs_of(kind)))
    assert_close(unified, plain, 1e-6)
    assert_close(lrp, plain, 1e-6)


@pytest.mark.parametrize("kind", ["text", "falcon", "image"])
def test_relevance_and_the_share_of_biases_add_up_to_the_logit(kind):
    """T6: the frozen pass is homogeneous of degree 1 in embeddings and biases."""
    with enable_x64():
        model, inputs = model_of(kind, "float64"), inputs_of(kind)
        graphdef, state = nnx.split(model)
        x = model.embed(inputs)

        def total(state):
            return jnp.sum(logit(nnx.merge(graphdef, state), x, MAMBA_LRP))

        slopes = quick_jit(jax.grad(total))(state)
        shares = [
            jnp.sum(value * slope)
            for (path, value), slope in zip(
                jax.tree.leaves_with_path(nnx.to_pure_dict(state)),
                jax.tree.leaves(nnx.to_pure_dict(slopes)),
                strict=True,
            )
            if path[-1].key == "bias"
        ]
        assert shares
        relevance = jnp.sum(mamba_lrp(model, inputs, target=TARGET))
        expected = quick_jit(lambda x: jnp.sum(logit(model, x)))(x)
        assert expected.dtype == jnp.float64
        assert_close(relevance + sum(shares), expected, 1e-12)
        assert abs(sum(shares)) > 1e-3 * abs(expected)  # the biases count


def without_biases(model):
    graphdef, state = nnx.split(model)

    def drop(path, x):
        return jnp.zeros_like(x) if "'bias'" in jax.tree_util.keystr(path) else x

    return nnx.merge(graphdef, jax.tree.map_with_path(drop, state))


@KINDS
def test_relevance_is_conserved_without_biases(kind):
    model, inputs = without_biases(model_of(kind)), inputs_of(kind)
    found = mamba_lrp(model, inputs, target=TARGET)
    expected = logit(model, model.embed(inputs))
    assert_close(jnp.sum(found, axis=1), expected, 1e-5)
    plain = gradient_x_input(model, inputs, target=TARGET)
    assert np.abs(plain.sum(1) - expected).max() > 0.1 * np.abs(expected).max()


def test_relevance_is_conserved_by_a_block():
    """What a block hands down is what it was given, its biases aside."""
    model = without_biases(model_of("image"))
    x, block = model.embed(inputs_of("image")), model.layer(0)

    @quick_jit
    def hand_down(x):
        out, pull = jax.vjp(lambda x: block(x, frozen=MAMBA_LRP).x, x)
        weights = jnp.cos(jnp.arange(out.size).astype(x.dtype)).reshape(out.shape)
        (slope,) = pull(weights)
        return jnp.sum(x * slope), jnp.sum(out * weights)

    received, given = hand_down(x)
    assert_close(received, given, 1e-5)


def test_half_rule_gives_both_factors_the_same():
    y, z = jnp.array([1.5, -0.3]), jnp.array([0.7, 2.0])
    d_y, d_z = jax.grad(lambda y, z: jnp.sum(gate(y, z, MAMBA_LRP)), argnums=(0, 1))(
        y, z
    )
    assert_close(y * d_y, z * d_z, 1e-6)
    assert_close(y * d_y + z * d_z, gate(y, z, NOTHING), 1e-6)


def test_lrp_of_a_block_is_half_through_the_recurrence_and_half_through_the_gate():
    model = model_of("text")
    block, x = model.layer(0), model.embed(inputs_of("text"))
    direction = jnp.sin(jnp.arange(x.size).astype(x.dtype)).reshape(x.shape)
    recurrence = block.mixer.project(x).recurrence
    y = run_recurrence(recurrence).y

    def mixer(x, frozen):
        recurrence = block.mixer.project(x, frozen=frozen).recurrence
        return block.mixer.mix(recurrence, frozen=frozen)

    def through_gate(x):
        """The recurrence constant, sigma(z) too: linear in z."""
        z = jnp.split(block.mixer.in_proj(x), 2, axis=-1)[1]
        return block.mixer.out_proj(y * z * jax.nn.sigmoid(recurrence.z))

    @quick_jit
    def slopes(x):
        functions = [lambda x, f=f: mixer(x, f)[0] for f in (UNIFIED, MAMBA_LRP)]
        return [jax.jvp(f, (x,), (direction,))[1] for f in (*functions, through_gate)]

    unified, lrp, gate_part = slopes(x)
    assert_close(lrp, (unified + gate_part) / 2, 1e-5)


# One call, pictures, mistakes ---------------------------------------------------------


def test_explain_runs_methods_by_name():
    model, images = model_of("image"), inputs_of("image")
    for name, method in METHODS.items():
        assert method.__name__ == name
    found = explain(model, images, "mamba_lrp", target=TARGET)
    np.testing.assert_array_equal(found, mamba_lrp(model, images, target=TARGET))
    assert found.shape == (2, 10)
    with pytest.raises(ValueError, match="Unknown method 'lime': give one of raw"):
        explain(model, images, "lime")


def test_heat_maps_have_patches_in_place_and_no_class_token():
    model = model_of("image")
    relevance = jnp.arange(10.0)[None]
    grid = patch_grid(model, relevance, 12, 12)
    assert grid[0].tolist() == [[0, 1, 2], [3, 5, 6], [7, 8, 9]]
    picture = np.asarray(heat_map(model, relevance, 12, 12)[0])
    torch = pytest.importorskip("torch")
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(np.array(grid))[None], size=(12, 12), mode="bilinear"
    )
    assert_close(picture, expected[0, 0].numpy(), 1e-6)


@pytest.mark.parametrize(
    ("patch", "stride", "height", "width", "last", "centre"),
    [(8, 8, 60, 64, 6, 51.5), (16, 8, 224, 224, 1, 15.5), (4, 6, 21, 23, 2, 13.5)],
)
def test_heat_maps_stand_at_the_centres_of_patches(
    patch, stride, height, width, last, centre
):
    """Patches that overlap, leave gaps, or do not fill the side are where they were."""
    config = VimConfig(d_model=8, patch_size=patch, stride=stride, class_token="none")
    model = tiny_vim(class_token="none")
    model.config = config
    rows, columns = config.grid_of(height, width)
    down, across = np.arange(rows) * 10.0, np.arange(columns)
    relevance = jnp.asarray((down[:, None] + across).reshape(1, -1), jnp.float32)
    picture = np.asarray(heat_map(model, relevance, height, width)[0], np.float64)
    at = [np.clip((np.arange(side) - (patch - 1) / 2) / stride, 0, count - 1)
          for side, count in ((height, rows), (width, columns))]  # fmt: skip
    assert_close(picture, 10 * at[0][:, None] + at[1], 1e-6)
    before = 10 * (last - 0.5 / stride)  # half a pixel before the patch's centre
    assert picture[int(centre), 0] == pytest.approx(before, rel=1e-6)


def test_mistakes_are_said():
    model, images = model_of("image"), inputs_of("image")
    with pytest.raises(ValueError, match="is of 9 tokens, but images of 12 x"):
        heat_map(model, jnp.zeros((1, 9)), 12, 12)
    with pytest.raises(ValueError, match="steps=0: give at least 1"):
        integrated_gradients(model, images, steps=0)
    with pytest.raises(ValueError, match=r"baseline has shape \(1, 12, 12, 3\)"):
        integrated_gradients(model, images, baseline=images[:1])
    with pytest.raises(ValueError, match="samples=0, noise=0.15: give at least one"):
        smooth_grad(model, images, samples=0)
    with pytest.raises(ValueError, match="target=5 is out of range: give 0 to 4"):
        mamba_lrp(model, images, target=5)
    with pytest.raises(ValueError, match=r"must have the shape \(batch, height"):
        gradient_x_input(model, images[0])
