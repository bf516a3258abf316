"""Explanations by attention: raw attention, rollout and Mamba-Attribution."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.attention.question import (
    Inputs,
    PerSample,
    Question,
    TargetChoice,
    ask,
)
from jmamba.attention.relevance.layer_maps import measure_layer
from jmamba.attention.relevance.scaling import min_max, roll_out, start_rows
from jmamba.attention.relevance.settings import AttentionSettings, choose_settings
from jmamba.attention.relevance.weighting import block_gradients, token_weights, weigh
from jmamba.layers.model import LayeredModel
from jmamba.ops.meshes import on_any_mesh

Settings = str | AttentionSettings


@on_any_mesh
def raw_attention(
    model: LayeredModel,
    inputs: Inputs,
    *,
    target: TargetChoice = None,
    query: PerSample = None,
    settings: Settings = "paper",
) -> Float[Array, "b tokens"]:
    """Return the query's attention, the mean over channels and layers.

    Where layers are of several kinds, all count alike: a layer of softmax attention by
    the mean over its heads, and feed-forward layers, which move nothing between tokens,
    not at all. So it is in all explanations by attention.

    Args:
      model: a `MambaLM` or a `Vim`.
      inputs: token ids (b, l) or images (b, height, width, colours).
      target: nothing depends on it; all explanations have one signature.
      query: the token whose attention is asked for, one or one per sample; None for the
        class token of an image, the last token of a text, and the mean over all tokens
        of an image without class token.
      settings: a name in `PRESETS` or `AttentionSettings`.

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
    return _raw_attention(
        question.graphdef,
        question.state,
        question.inputs,
        question.query,
        settings=chosen,
    )


@partial(jax.jit, static_argnames=("graphdef", "settings"))
def _raw_attention(graphdef, state, inputs, query, settings):
    model = nnx.merge(graphdef, state)
    measure = _measure(query, settings, row=True, scale=True)
    layers = model.run_layers(model.embed(inputs), read=measure).found
    mean = jnp.mean(layers[_first(model, settings) :], axis=0)
    return jnp.maximum(mean, 0) if settings.clamp_result else mean


@on_any_mesh
def attention_rollout(
    model: LayeredModel,
    inputs: Inputs,
    *,
    target: TargetChoice = None,
    query: PerSample = None,
    settings: Settings = "paper",
) -> Float[Array, "b tokens"]:
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

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> tokens = jnp.array([list(b"hello")])
      >>> attention_rollout(model, tokens, query=2)[0, 3:].tolist()  # ahead of it
      [0.0, 0.0]

    References:
      Ali, Zimerman & Wolf, ACL 2025, equations 21 and 22, table 5 for `channels` and
      `discard`.
      Abnar & Zuidema, "Quantifying attention flow in transformers", arXiv 2005.00928.
    """
    question, chosen = _start(model, inputs, target, query, settings)
    return _attention_rollout(
        question.graphdef,
        question.state,
        question.inputs,
        question.query,
        settings=chosen,
    )


@partial(jax.jit, static_argnames=("graphdef", "settings"))
def _attention_rollout(graphdef, state, inputs, query, settings):
    model = nnx.merge(graphdef, state)
    measure = _measure(query, settings, row=settings.rows == "query")
    layers = model.run_layers(model.embed(inputs), read=measure).found
    return _finish(model, layers, query, settings)


@on_any_mesh
def mamba_attribution(
    model: LayeredModel,
    inputs: Inputs,
    *,
    target: TargetChoice = None,
    query: PerSample = None,
    settings: Settings = "paper",
) -> Float[Array, "b tokens"]:
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


@on_any_mesh
def unified_attribution(
    model: LayeredModel,
    inputs: Inputs,
    *,
    target: TargetChoice = None,
    query: PerSample = None,
    settings: Settings = "unified",
) -> Float[Array, "b tokens"]:
    """Return Mamba-Attribution of unified attention, with all of the mixer folded in.

        beta = I + (E d logit / d y * E_d [gate (alpha + D) slope conv])^+

    Args:
      model, inputs, target, query: as in `mamba_attribution`.
      settings: "unified" for the formula, "official_2025" for the code that was
        released with the paper, or `AttentionSettings` with a choice of `fold`.

    Returns:
      The relevance of every token of the residual stream, the class token included.

    Raises:
      ValueError: as in `mamba_attribution`, or the settings fold nothing in.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> without_gate = AttentionSettings(fold=("D", "silu", "conv"))
      >>> tokens = jnp.array([list(b"hello")])
      >>> unified_attribution(model, tokens, settings=without_gate).shape
      (1, 5)

    References:
      Zimerman et al., "Explaining Modern Gated-Linear RNNs via a Unified Implicit
      Attention Formulation", arXiv 2405.16504, section 3.
    """
    if not choose_settings(settings).fold:
        raise ValueError(
            f"settings={settings!r} fold nothing into attention: give fold=(...) with "
            'some of "D", "silu", "conv", "gate", or use mamba_attribution.'
        )
    return mamba_attribution(
        model, inputs, target=target, query=query, settings=settings
    )


@partial(jax.jit, static_argnames=("graphdef", "settings"))
def _mamba_attribution(graphdef, state, inputs, target, query, settings):
    model = nnx.merge(graphdef, state)
    row = settings.rows == "query"
    positive = settings.clamp == "factors"
    measure = _measure(query, settings, row=row, positive=positive, scale=True)
    x = model.embed(inputs)
    gradients, layers = block_gradients(model, x, target, query, measure)
    weights = token_weights(model, gradients, settings)  # s b l
    if not row:
        on_source = settings.gradient_on == "source"
        weights = weights[:, :, None, :] if on_source else weights[..., None]
    layers = weigh(layers, weights, settings)
    layers = jax.vmap(min_max)(layers) if settings.row_norm else layers
    return _finish(model, layers, query, settings)


def _start(model, inputs, target, query, settings):
    chosen = choose_settings(settings)
    question: Question = ask(model, inputs, target, query)
    if question.query is None and not chosen.exact:
        raise ValueError(
            "These settings need a query, as the model has no class token: give "
            "query=..., or settings with exact=True."
        )
    return question, chosen


def _measure(query, settings, *, row, positive=False, scale=False):
    """Return what `run_layers` is to read of each layer: one map of attention.

    Rows of several queries are averaged.
    """
    measure = partial(
        measure_layer, settings=settings, row=row, positive=positive, scale=scale
    )
    if not row or query is None or query.ndim == 1:
        return partial(measure, query=query if row else None)

    def average(block, x, out):
        rows = jax.vmap(lambda one: measure(block, x, out, query=one), in_axes=1)
        return jnp.mean(rows(query), axis=0)

    return average


def _first(model, settings):
    """Return the first layer that counts: 15 of 24 in the released code."""
    return int(settings.skip * model.config.num_layers + 1e-9)


def _finish(model, layers, query, settings):
    """Roll layers out from the query, or from all tokens alike if there is none."""
    shape = layers.shape[1], layers.shape[-1]
    start = start_rows(query, shape, layers.dtype)
    layers = layers[_first(model, settings) :]
    rho = roll_out(layers, start, row_normalise=settings.row_normalise)
    return jnp.maximum(rho, 0) if settings.clamp_result else rho
