"""The network as a recurrence over tokens: its whole state and how it evolves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from jmamba.models.language_model import LanguageModel
from jmamba.ops.meshes import on_any_mesh
from jmamba.requests import as_array
from jmamba.types import ArrayLike, LayerCache


@on_any_mesh
def flatten_state(cache: LayerCache) -> Float[Array, "s e"]:
    """Return the state of one text as a row per layer: convolution, then recurrence.

    Args:
      cache: of a model, batch 1.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> flatten_state(model.empty_cache(1)).shape  # 32 (3 + 16)
      (2, 608)
    """
    leaves = jax.tree.leaves(cache)
    parts = (x.reshape(len(x), -1).astype(leaves[-1].dtype) for x in leaves)
    return jnp.concatenate(list(parts), axis=1)


def _unflatten_state(state: Float[Array, "s e"], like: LayerCache) -> LayerCache:
    """Return a state's rows as a cache."""
    leaves, tree = jax.tree.flatten(like)
    ends = np.cumsum([x[0].size for x in leaves])[:-1]
    parts = jnp.split(state, ends, axis=1)
    shaped = (
        part.reshape(x.shape).astype(x.dtype)
        for part, x in zip(parts, leaves, strict=True)
    )
    return jax.tree.unflatten(tree, shaped)


class _StateMap(NamedTuple):
    graphdef: nnx.GraphDef

    @on_any_mesh
    def __call__(self, parameters, tokens, state):
        model = nnx.merge(self.graphdef, parameters)
        cache = _unflatten_state(state, model.empty_cache(1))
        cache = model.run_layers(model.embed(tokens[None]), cache=cache).cache
        return flatten_state(cache)


@on_any_mesh
def state_map(model: LanguageModel, tokens: Int[Array, "l"] | ArrayLike) -> Partial:
    """Return the map of the network's state that reading some tokens is.

    A row of the state is a layer. Layers feel earlier layers only, so the Jacobian is
    block lower triangular over layers, and `token_jacobian`, `block_eigenvalues` and
    `singular_values` apply with layers in the place of tokens. For one token the
    eigenvalues of a diagonal block are exp(delta A) and zeros, since the convolution
    forgets; over many, exponents are those of `sequence_exponents`. How far a
    perturbation grows in between is the largest singular value.

    Args:
      model: the model.
      tokens: ids of the tokens to read.

    Raises:
      ValueError: tokens do not fit the model, or a layer is no recurrence.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> state = flatten_state(model.empty_cache(1))
      >>> state_map(model, jnp.array([3, 1]))(state).shape
      (2, 608)

    References:
      Halloran, Gulati & Roysdon, "Mamba state-space models are Lyapunov-stable
      learners", arXiv 2406.00209, for one layer with fixed inputs; here for all.
    """
    model.check_recurrent("state_map")
    tokens = model.check_inputs(as_array(tokens, "tokens")[None])
    graphdef, parameters = nnx.split(model)
    return Partial(_StateMap(graphdef), parameters, tokens[0])
