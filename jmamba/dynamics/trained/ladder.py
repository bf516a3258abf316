"""From the idealised layer of the theory to the real one, a part at a time."""

from collections.abc import Collection
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.tree_util import Partial

from jmamba.dynamics.theory.system import TokenSystem, step_sizes
from jmamba.dynamics.trained.spectra import layer_system
from jmamba.models.mamba.model import MambaLM
from jmamba.ops.meshes import on_any_mesh
from jmamba.types import Recurrence

OMITTED = ("norm", "conv", "gate", "D")
"""What the theory leaves out: the RMS norm, the convolution with its activation, the
gate and the skip weights."""


class _PartialBlock(NamedTuple):
    graphdef: nnx.GraphDef
    parts: frozenset

    @on_any_mesh
    def __call__(self, state, system, x):
        block, parts = nnx.merge(self.graphdef, state), self.parts
        mixer, x = block.mixer, x[None]
        n = block.norm(x) if "norm" in parts else x.astype(block.norm.compute)
        recurrence, _, convolutions = mixer.project(n)
        if "conv" not in parts:
            recurrence = _select(system, recurrence, convolutions[0].x)
        if "D" not in parts:
            recurrence = recurrence._replace(D=None)
        if "gate" not in parts:
            recurrence = recurrence._replace(z=None)
        out, _ = mixer.mix(recurrence)
        return (x + out.astype(x.dtype))[0]


def _select(system: TokenSystem, recurrence: Recurrence, u) -> Recurrence:
    """Return the recurrence that the theory's system makes of u."""
    delta = step_sizes(system, u[0].astype(system.bias.dtype))[None]
    B = jnp.einsum("bld,nd->bln", u, system.S_B.astype(u.dtype))
    C = jnp.einsum("bld,nd->bln", u, system.S_C.astype(u.dtype))
    B, C = B[:, :, None], C[:, :, None]  # one group
    return recurrence._replace(u=u, delta=delta, A=system.A, B=B, C=C)


@on_any_mesh
def partial_block(model: MambaLM, index: int, parts: Collection[str] = ()) -> Partial:
    """Return a layer with only some of the parts that the theory leaves out.

    With none it is one Euler step of the theory's system, between the layer's input and
    output projections: x + W_out F(W_in x). With all it is the layer.

    Args:
      model: the model.
      index: which layer, negative ones from the end.
      parts: names of `OMITTED`.

    Returns:
      A pure function of one sequence (l, m), and a pytree: for `jacobian_norms`,
      `march`, ...

    Raises:
      ValueError: a part is unknown, or the layer is a Falcon-Mamba one, whose gates
        are not linear in u.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> x = model.embed(jnp.array([[3, 1, 4, 1]]))[0]
      >>> whole = partial_block(model, 1, OMITTED)(x)
      >>> bool(jnp.allclose(whole, model.layer(1)(x[None]).x[0], atol=1e-6))
      True

    References:
      Vo et al., arXiv 2410.03292, section 3: what is abstracted away.
    """
    wrong = sorted(set(parts) - set(OMITTED))
    if wrong:
        raise ValueError(
            f"Unknown parts {', '.join(wrong)}; give some of {', '.join(OMITTED)}."
        )
    if getattr(model.config, "is_falcon", False):
        raise ValueError(
            "partial_block needs gates that are linear in u, but this model divides "
            "them by a norm (Falcon-Mamba). Use a Mamba-1 model."
        )
    graphdef, state = nnx.split(model.layer(index))
    block = _PartialBlock(graphdef, frozenset(parts))
    return Partial(block, state, layer_system(model, index))
