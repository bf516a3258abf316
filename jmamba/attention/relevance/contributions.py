"""Explanations by token vectors: their norms, ALTI and ALTI-Logit, over all layers."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.attention.question import (
    Inputs,
    PerSample,
    TargetChoice,
    ask,
    pick,
)
from jmamba.attention.relevance.scaling import start_rows
from jmamba.attention.relevance.token_vectors import (
    alti_matrix,
    check_p,
    norm_matrix,
)
from jmamba.layers.freezing import UNIFIED, Frozen
from jmamba.layers.model import LayeredModel
from jmamba.layers.stack import walk
from jmamba.ops.meshes import on_any_mesh

NORM_FROZEN = Frozen(norm=True)
"""A read-out that is linear in the residual stream."""


@on_any_mesh
def token_norms(
    model: LayeredModel,
    inputs: Inputs,
    *,
    target: TargetChoice = None,
    query: PerSample = None,
    p: float = 2.0,
) -> Float[Array, "b tokens"]:
    """Return how long the query's token vectors are, the mean over layers.

        R[j] = mean_layers |T_query(x_j)|_p

    Args:
      model: a `MambaLM` or a `Vim`.
      inputs: token ids (b, l) or images (b, height, width, colours).
      target: nothing depends on it; all explanations have one signature.
      query: the token whose vectors are asked for, one or one per sample; None for the
        class token of an image, the last token of a text, and the mean over all tokens
        of an image without class token.
      p: of the norm.

    Returns:
      The relevance of every token of the residual stream, the class token included.

    Raises:
      ValueError: inputs do not fit the model, query is out of range, or p is less than
        1.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> token_norms(model, jnp.array([list(b"hello")]), query=2)[0, 3:].tolist()
      [0.0, 0.0]

    References:
      Pitorro & Treviso, "LaTIM", arXiv 2502.15612.
    """
    check_p(p)
    question = ask(model, inputs, target, query)
    return _token_norms(
        question.graphdef, question.state, question.inputs, question.query, p
    )


@partial(jax.jit, static_argnames=("graphdef", "p"))
def _token_norms(graphdef, state, inputs, query, p):
    model = nnx.merge(graphdef, state)

    def measure(block, x, out):
        return jnp.einsum(
            "bi,bij->bj",
            start_rows(query, x.shape[:2], x.dtype),
            norm_matrix(block, x, p),
        )

    return jnp.mean(model.run_layers(model.embed(inputs), read=measure).found, axis=0)


@on_any_mesh
def alti(
    model: LayeredModel,
    inputs: Inputs,
    *,
    target: TargetChoice = None,
    query: PerSample = None,
) -> Float[Array, "b tokens"]:
    """Return how much of the query's token is made of each input, by ALTI.

        R = c[last] ... c[first], the query's row,

    with c[i, j] how near token vector T_i(x_j), the residual stream counted in, is to
    the output of its layer: see `alti_contributions`. Rows sum to 1, and so does R.

    Args:
      model, inputs, target, query: as in `token_norms`.

    Returns:
      The relevance of every token of the residual stream, the class token included.

    Raises:
      ValueError: inputs do not fit the model, or query is out of range.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> relevance = alti(model, jnp.array([list(b"hello")]))
      >>> bool(jnp.isclose(jnp.sum(relevance), 1))
      True

    References:
      Ferrando et al., "Measuring the mixing of contextual information in the
      transformer" (ALTI), arXiv 2203.04212.
      Pitorro & Treviso, "LaTIM", arXiv 2502.15612.
    """
    question = ask(model, inputs, target, query)
    return _alti(question.graphdef, question.state, question.inputs, question.query)


@partial(jax.jit, static_argnames="graphdef")
def _alti(graphdef, state, inputs, query):
    model = nnx.merge(graphdef, state)
    x = model.embed(inputs)

    def measure(block, x, out):
        return alti_matrix(block, x)

    layers = model.run_layers(x, read=measure).found
    return jax.lax.scan(
        lambda row, c: (_times(row, c), None),
        start_rows(query, x.shape[:2], x.dtype),
        layers,
        reverse=True,
    )[0]


@on_any_mesh
def alti_logit(
    model: LayeredModel,
    inputs: Inputs,
    *,
    target: TargetChoice = None,
    query: PerSample = None,
) -> Float[Array, "b tokens"]:
    """Return the share of each input in a logit, by ALTI-Logit.

    With the final norm's 1/rms held constant, the logit is the sum of what every layer
    adds to the query's token, and that is a sum over its token vectors,

        s[layer][j] = d logit / d x[last] . T_query(x_j)

    each of which goes back to the inputs through the layers below:

        R = sum_layers s[layer] c[layer - 1] ... c[first] + the query's own embedding

    R and the shares of the biases add up to the logit.

    Args:
      model, inputs, query: as in `token_norms`.
      target: class or token whose logit is explained, one or one per sample; None for
        the predicted one.

    Returns:
      The relevance of every token of the residual stream, the class token included.

    Raises:
      ValueError: inputs do not fit the model, or target or query is out of range.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(
      ...     vocab_size=256, d_model=16, num_layers=2, use_conv_bias=False
      ... )
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> tokens = jnp.array([list(b"hello")])
      >>> total = jnp.sum(alti_logit(model, tokens, target=3))
      >>> bool(jnp.isclose(total, model(tokens).logits[0, -1, 3], atol=1e-5))
      True

    References:
      Ferrando et al., "Explaining how transformers use context to build predictions"
      (ALTI-Logit), arXiv 2305.12535, section 3.
      Pitorro & Treviso, "LaTIM", arXiv 2502.15612.
    """
    return _alti_logit(*ask(model, inputs, target, query))


@partial(jax.jit, static_argnames="graphdef")
def _alti_logit(graphdef, state, inputs, target, query):
    model = nnx.merge(graphdef, state)
    x = model.embed(inputs)
    passed = model.run_layers(x, read=lambda block, x, out: x)
    last, entering = passed.x, passed.found

    def logit(last):
        return jnp.sum(pick(model.read(last, query, frozen=NORM_FROZEN), target))

    slope = jax.grad(logit)(last)

    def step(block, relevance, x):
        relevance = _times(relevance, alti_matrix(block, x))
        _, pull = jax.vjp(lambda x: block.increment(x, frozen=UNIFIED), x)
        added = jnp.sum(x * pull(slope.astype(x.dtype))[0], axis=-1)
        return relevance + added.astype(relevance.dtype), None

    own = jnp.sum(x * slope, axis=-1)
    nothing = jnp.zeros_like(own)
    relevance, _ = walk(model.runs(), step, nothing, entering, reverse=True)
    return relevance + own


def _times(row, matrix):
    return jnp.einsum("bi,bij->bj", row, matrix, precision="highest")
