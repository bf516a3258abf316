"""Explanations by attention: raw attention, rollout and Mamba-Attribution."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.attention.question import (
    Choice,
    Inputs,
    Model,
    Question,
    ask,
    pick,
    scan_blocks,
)
from jmamba.attention.reduction import reduced_attention
from jmamba.attention.rows import query_rows
from jmamba.attention.settings import AttentionSettings, choose_settings

Settings = str | AttentionSettings


def raw_attention(
    model: Model,
    inputs: Inputs,
    *,
    target: Choice = None,
    query: Choice = None,
    settings: Settings = "paper",
) -> Float[Array, "b l"]:
    """Return the query's attention, the mean over channels and layers.

    Args:
      model: a `MambaLM` or a `Vim`.
      inputs: token ids (b, l) or images (b, height, width, colours).
      target: nothing depends on it; all explanations have one signature.
      query: the token whose attention is asked for, one or one per sample; None for the
        class token of an image, the last token of a text, and the mean over all tokens
        of an image without class token.
      settings: "paper", "official_2024" or `AttentionSettings`.

    Returns:
      The relevance of every token of the residual stream, the class token included.

    Raises:
      ValueError: inputs do not fit the model, query is out of range, or the settings
        are unknown.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> raw_attention(model, jnp.array([list(b"hello")]), query=2)[0, 3:].tolist()
      [0.0, 0.0]

    References:
      Ali, Zimerman & Wolf, ACL 2025, section 3.3.
    """
    question, chosen = _start(model, inputs, target, query, settings)
    return _raw_attention(*question[:3], question.query, settings=chosen)


@partial(jax.jit, static_argnames=("graphdef", "settings"))
def _raw_attention(graphdef, state, inputs, query, settings):
    model = nnx.merge(graphdef, state)
    x = model.embed(inputs)

    def measure(out):
        rows = query_rows(out.ssm, query, exact=settings.exact)
        return jnp.mean(min_max(rows) if settings.channel_norm else rows, axis=1)

    _, layers = scan_blocks(model, x, measure)
    mean = jnp.mean(layers[_first(model, settings) :], axis=0)
    return jnp.maximum(mean, 0) if settings.clamp_result else mean


def attention_rollout(
    model: Model,
    inputs: Inputs,
    *,
    target: Choice = None,
    query: Choice = None,
    settings: Settings = "paper",
) -> Float[Array, "b l"]:
    """Return the query's row of the product of I + mean attention over layers.

        rho = (I + E_d alpha[last]) ... (I + E_d alpha[first])

    Args:
      model, inputs, target, query: as in `raw_attention`.
      settings: "paper" for matrices as in the formula; "official_2024" for the released
        code, which adds the query's row to every row and divides rows by their sum.

    Returns:
      The relevance of every token of the residual stream, the class token included.

    Raises:
      ValueError: inputs do not fit the model, query is out of range, or the settings
        are unknown.

    References:
      Ali, Zimerman & Wolf, ACL 2025, equations 21 and 22.
      Abnar & Zuidema, "Quantifying attention flow in transformers", arXiv 2005.00928.
    """
    question, chosen = _start(model, inputs, target, query, settings)
    return _attention_rollout(*question[:3], question.query, settings=chosen)


@partial(jax.jit, static_argnames=("graphdef", "settings"))
def _attention_rollout(graphdef, state, inputs, query, settings):
    model = nnx.merge(graphdef, state)
    x = model.embed(inputs)

    def measure(out):
        if settings.rows == "full":
            return reduced_attention(out.ssm, "mean")
        rows = query_rows(out.ssm, query, exact=settings.exact)
        return jnp.mean(rows, axis=1)

    _, layers = scan_blocks(model, x, measure)
    return _finish(model, layers, query, settings)


def mamba_attribution(
    model: Model,
    inputs: Inputs,
    *,
    target: Choice = None,
    query: Choice = None,
    settings: Settings = "paper",
) -> Float[Array, "b l"]:
    """Return the rollout of attention that the target's gradient weighs.

        rho = beta[last] ... beta[first],   beta = I + (E d logit / d y * E_d alpha)^+

    with y the output of a block.

    Args:
      model, inputs, query: as in `raw_attention`.
      target: class or token whose logit is explained, one or one per sample; None for
        the predicted one.
      settings: "paper" for the formula, with the mean gradient of each source token;
        "official_2024" for the released code.

    Returns:
      The relevance of every token of the residual stream, the class token included.

    Raises:
      ValueError: inputs do not fit the model, target or query is out of range, or the
        settings are unknown.

    Examples:
      >>> import jmamba
      >>> config = jmamba.VimConfig(
      ...     d_model=16, num_layers=2, num_classes=5, image_size=32, patch_size=8
      ... )
      >>> model = jmamba.Vim(config, rngs=nnx.Rngs(0))
      >>> mamba_attribution(model, jnp.ones((1, 32, 32, 3)), target=3).shape
      (1, 17)

    References:
      Ali, Zimerman & Wolf, ACL 2025, equations 23 and 24.
    """
    question, chosen = _start(model, inputs, target, query, settings)
    return _mamba_attribution(*question, settings=chosen)


@partial(jax.jit, static_argnames=("graphdef", "settings"))
def _mamba_attribution(graphdef, state, inputs, target, query, settings):
    model = nnx.merge(graphdef, state)
    x = model.embed(inputs)
    positive = settings.clamp == "factors"

    def measure(out):
        if settings.rows == "full":
            reduction = "mean_positive" if positive else "mean"
            return reduced_attention(out.ssm, reduction)
        rows = query_rows(out.ssm, query, exact=settings.exact)
        rows = jnp.maximum(rows, 0) if positive else rows
        return jnp.mean(min_max(rows) if settings.channel_norm else rows, axis=1)

    gradients, layers = block_gradients(model, x, target, query, measure)
    here = gradients[1:] if settings.gradient_at == "block_out" else gradients[:-1]
    weights = _reduce_gradient(here, settings)  # s b l
    if settings.rows == "full":
        on_source = settings.gradient_on == "source"
        weights = weights[:, :, None, :] if on_source else weights[..., None]
    return _finish(model, _weigh(layers, weights, settings), query, settings)


def block_gradients(model, x, target, query, measure=lambda out: None):
    """Return d logit / d residual stream in front of, between and behind all blocks.

    Args:
      model: the model.
      x: the residual stream before the first block.
      target, query: of a `Question`.
      measure: function of a block's output to record on the way.

    Returns:
      Gradients (s + 1, b, l, m) and the stacked measurements.
    """
    shifts = jnp.zeros((model.config.num_layers, *x.shape), x.dtype)

    def total(x, shifts):
        last, seen = scan_blocks(model, x, measure, shifts=shifts)
        return jnp.sum(pick(model.read(last, query), target)), seen

    both, seen = jax.grad(total, argnums=(0, 1), has_aux=True)(x, shifts)
    return jnp.concatenate([both[0][None], both[1]]), seen


def roll_out(
    layers: Float[Array, "s b l l"] | Float[Array, "s b l"],
    start: Float[Array, "b l"],
    *,
    row_normalise: bool,
) -> Float[Array, "b l"]:
    """Return start T[last] ... T[first], T = I + attention.

    Args:
      layers: matrices, or single rows a that stand for the matrix of equal rows 1 a^T.
      start: weights of the rows that are asked for, one-hot for a single one.
      row_normalise: whether each row of T is divided by its sum.

    Examples:
      >>> half = jnp.full((2, 1, 2, 2), 0.5)
      >>> roll_out(half, jnp.array([[1.0, 0.0]]), row_normalise=True).tolist()
      [[0.625, 0.375]]
    """

    def step(row, a):
        if a.ndim == 3:
            sums = 1 + jnp.sum(a, axis=-1)
            row = row / sums if row_normalise else row
            row = row + jnp.einsum("bi,bij->bj", row, a, precision="highest")
        else:
            row = row + jnp.sum(row, axis=1, keepdims=True) * a
            sums = 1 + jnp.sum(a, axis=1, keepdims=True)
            row = row / sums if row_normalise else row
        return row, None

    return jax.lax.scan(step, start, layers, reverse=True)[0]


def min_max(x: Float[Array, "b *rest"]) -> Float[Array, "b *rest"]:
    """Return each sample scaled to [0, 1]; a constant one becomes 0.

    Examples:
      >>> min_max(jnp.array([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]])).tolist()
      [[0.0, 1.0, 0.5], [0.0, 0.0, 0.0]]
    """
    axes = tuple(range(1, x.ndim))
    low = jnp.min(x, axis=axes, keepdims=True)
    extent = jnp.max(x, axis=axes, keepdims=True) - low
    return (x - low) / jnp.where(extent > 0, extent, 1)


def _start(model, inputs, target, query, settings):
    chosen = choose_settings(settings)
    question: Question = ask(model, inputs, target, query)
    if question.query is None and not chosen.exact:
        raise ValueError(
            "These settings need a query, as the model has no class token: give "
            "query=..., or settings with exact=True."
        )
    return question, chosen


def _first(model, settings):
    """Return the first layer that counts: 15 of 24 in the released code."""
    return int(settings.skip * model.config.num_layers + 1e-9)


def _finish(model, layers, query, settings):
    """Roll layers out from the query, or from all tokens alike if there is none."""
    batch, length = layers.shape[1], layers.shape[-1]
    start = jnp.full((batch, length), 1 / length, layers.dtype)
    if query is not None:
        start = jax.nn.one_hot(query, length, dtype=layers.dtype)
    layers = layers[_first(model, settings) :]
    rho = roll_out(layers, start, row_normalise=settings.row_normalise)
    return jnp.maximum(rho, 0) if settings.clamp_result else rho


def _reduce_gradient(gradient, settings):
    if settings.gradient_reduce == "mean":
        return jnp.mean(gradient, axis=-1)
    positive = jnp.max(jnp.maximum(gradient, 0), axis=-1)
    return jax.vmap(min_max)(positive)


def _weigh(attention, gradient, settings):
    if settings.clamp == "factors":  # attention is positive already
        return attention * jnp.maximum(gradient, 0)
    product = attention * gradient
    if settings.clamp == "abs":
        return jnp.abs(product)
    return jnp.maximum(product, 0) if settings.clamp == "product" else product
