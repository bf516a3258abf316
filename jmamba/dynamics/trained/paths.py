"""The paths by which a token moves another through one block, each with a switch."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import jax
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jmamba.layers.block import Block
from jmamba.layers.model import LayeredModel
from jmamba.ops.meshes import on_any_mesh
from jmamba.types import Recurrence

PATHS = ("identity", "value", "B", "C", "delta", "gate", "norm")
"""Where a block reads its input.

identity  the residual connection
value     u, what the recurrence carries: the path of the hidden attention
B, C      the input and output gates of the recurrence
delta     the step sizes
gate      z
norm      the RMS by which all tokens' vectors are divided, for all paths but identity
"""


class _PathMap(NamedTuple):
    graphdef: nnx.GraphDef
    paths: frozenset

    @on_any_mesh
    def __call__(self, state, x):
        block = nnx.merge(self.graphdef, state)
        frozen = jax.lax.stop_gradient(x)
        sources = {path: x if path in self.paths else frozen for path in PATHS}
        return run_paths(block, {k: v[None] for k, v in sources.items()})[0]


@on_any_mesh
def path_map(
    model: LayeredModel, index: int, paths: Collection[str] = PATHS
) -> Partial:
    """Return a block whose derivative flows along some paths only.

    Its values are those of the block; along all other paths the input counts as a
    constant. So Jacobians of single paths add up to the Jacobian of the block, and
    `token_jacobian(path_map(model, i, {"value"}), x)` is the derivative that treats
    the hidden attention as fixed.

    Args:
      model: the model.
      index: which layer, negative ones from the end.
      paths: names of `PATHS`.

    Returns:
      A pure function of one sequence (l, m), and a pytree: for `token_jacobian`,
      `jacobian_norms`, `singular_values`, ...

    Raises:
      ValueError: a path is unknown.
      IndexError: there is no such layer.

    Examples:
      >>> import jmamba
      >>> from jmamba.dynamics import jacobian_norms
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> x = jax.random.normal(jax.random.key(0), (4, 16))
      >>> jacobian_norms(path_map(model, 0, {"identity"}), x).tolist()[1]
      [0.0, 4.0, 0.0, 0.0]

    References:
      Vo et al., arXiv 2410.03292, section 3, where x occurs in P and beside it.
      Ali et al., arXiv 2403.01590: the value path is hidden attention.
    """
    wrong = sorted(set(paths) - set(PATHS))
    if wrong:
        raise ValueError(
            f"Unknown paths {', '.join(wrong)}; give some of {', '.join(PATHS)}."
        )
    graphdef, state = nnx.split(model.layer(index))
    return Partial(_PathMap(graphdef, frozenset(paths)), state)


@on_any_mesh
def run_paths(
    block: Block, sources: Mapping[str, Float[Array, "b l m"]]
) -> Float[Array, "b l m"]:
    """Run a block that reads a separate input on each path.

    With the same input on all paths this is the block.

    Args:
      block: `model.layer(i)`.
      sources: an input for every name of `PATHS`.

    Examples:
      >>> import jax.numpy as jnp, jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> block = jmamba.MambaLM(config, rngs=nnx.Rngs(0)).layer(0)
      >>> x = jax.random.normal(jax.random.key(0), (1, 4, 16))
      >>> y = run_paths(block, dict.fromkeys(PATHS, x))
      >>> bool(jnp.allclose(y, block(x).x, atol=1e-6))
      True
    """
    made: dict[int, Recurrence] = {}  # one per distinct input

    def recurrence_of(path) -> Recurrence:
        x = sources[path]
        if id(x) not in made:
            recurrence = block.project(x, over=sources["norm"]).recurrence
            if not isinstance(recurrence, Recurrence):
                raise ValueError(
                    "Paths are those of a recurrence of one direction, but this block "
                    f"projects to {type(recurrence).__name__}; give another layer."
                )
            made[id(x)] = recurrence
        return made[id(x)]

    recurrence = recurrence_of("value")._replace(
        B=recurrence_of("B").B,
        C=recurrence_of("C").C,
        delta=recurrence_of("delta").delta,
        z=recurrence_of("gate").z,
    )
    out, _ = block.mixer.mix(recurrence)
    return block.add(sources["identity"], out)
