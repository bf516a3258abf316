"""What each layer and each token that it reads adds to a logit."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.attention.question import PerSample, TargetChoice, ask, pick, resolve
from jmamba.attention.relevance.contributions import NORM_FROZEN
from jmamba.interventions.request import Inputs
from jmamba.layers.freezing import UNIFIED
from jmamba.layers.model import LayeredModel
from jmamba.layers.stack import walk
from jmamba.ops.meshes import on_any_mesh


class LogitShares(NamedTuple):
    """A logit as a sum over layers, and over the tokens that each layer reads.

    `embedding` + `layers` + `head` add up to the logit, and the `sources` and `biases`
    of a layer to its entry of `layers`.

    Attributes:
      logit: what is taken apart.
      embedding: the share of the query's own embedding.
      layers: the share of what each layer puts out.
      sources: of each layer's share, that of every token it reads, by token vectors.
      biases: of each layer's share, that of its biases.
      head: the bias of the read-out.
    """

    logit: Float[Array, "b"]
    embedding: Float[Array, "b"]
    layers: Float[Array, "s b"]
    sources: Float[Array, "s b l"]
    biases: Float[Array, "s b"]
    head: Float[Array, "b"]


@on_any_mesh
def logit_shares(
    model: LayeredModel,
    inputs: Inputs,
    *,
    target: TargetChoice = None,
    query: PerSample = None,
) -> LogitShares:
    """Take a logit apart: direct logit attribution to layers and to their sources.

        logit = g . x[0] + sum_layers g . out[layer] + bias,  g = d logit / d x[last]
        g . out[layer] = sum_j g . T_query(x_j) + bias

    with the final norm's 1/rms held constant, and with the token vectors T of
    `attention.token_vectors`.

    Args:
      model: a model of texts or images.
      inputs: token ids (b, l) or images.
      target: whose logit, a `MeanOf`, `Contrast` or `Continuation`; None for the
        predicted one.
      query: off which token it is read; None for the usual one.

    Raises:
      ValueError: inputs do not fit the model, or target or query is out of range.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> shares = logit_shares(model, jnp.array([list(b"hello")]))
      >>> total = shares.embedding + shares.layers.sum(0) + shares.head
      >>> bool(jnp.allclose(total, shares.logit, atol=1e-5))
      True

    References:
      Elhage et al., "A mathematical framework for transformer circuits", 2021; Ferrando
      et al., arXiv 2305.12535, section 3; Pitorro & Treviso, arXiv 2502.15612.
    """
    return _shares(*ask(model, inputs, target, query))


@partial(jax.jit, static_argnames="graphdef")
def _shares(graphdef, state, inputs, target, query):
    model = nnx.merge(graphdef, state)
    x = model.embed(inputs)
    passed = model.run_layers(x, read=lambda block, x, out: (x, out.x - x))
    last, (entering, added) = passed.x, passed.found
    target = resolve(model.read(last, query), target)

    def read(last):
        own = pick(model.read(last, query, frozen=NORM_FROZEN), target)
        return jnp.sum(own), own

    slope, logit = jax.grad(read, has_aux=True)(last)

    def along(x):  # ... l m -> ...
        return jnp.sum(x.astype(slope.dtype) * slope, axis=(-2, -1))

    def step(block, _, x):
        _, pull = jax.vjp(lambda x: block.increment(x, frozen=UNIFIED), x)
        shares = jnp.sum(x * pull(slope.astype(x.dtype))[0], axis=-1)
        return None, shares

    _, sources = walk(model.runs(), step, None, entering)
    layers = jax.vmap(along)(added)
    return LogitShares(
        logit,
        along(x),
        layers,
        sources,
        layers - jnp.sum(sources, axis=-1),
        logit - along(last),
    )
