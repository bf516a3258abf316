"""Whether two models have the same parameters, without comparing them."""

import jax
import jax.numpy as jnp
from flax import nnx

from jmamba.ops.meshes import on_any_mesh


@on_any_mesh
def fingerprint_parameters(model: nnx.Module) -> str:
    """Return a short text that differs between other parameters, bit for bit.

    It is the same wherever they lie: sums of whole numbers have no order.

    Examples:
      >>> import jmamba
      >>> config = jmamba.MambaConfig(vocab_size=8, d_model=4, num_layers=1)
      >>> one, two = (jmamba.MambaLM(config, rngs=nnx.Rngs(i)) for i in range(2))
      >>> fingerprint_parameters(one) == fingerprint_parameters(two)
      False
    """
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    total = 0
    for number, x in enumerate(_sum_bits(leaves), start=1):
        total = (total * 1_000_003 + number * int(x)) % 2**64
    return f"{total:016x}"


@jax.jit
def _sum_bits(arrays):
    return [_weigh_bits(x) for x in arrays]


def _weigh_bits(x):
    """Return sum_i (2 i + 1) bits[i] modulo 2^32, i running over all entries."""
    kinds = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}
    bits = jax.lax.bitcast_convert_type(x, kinds[x.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(bits.shape):
        own = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place = place * jnp.uint32(size) + own
    return jnp.sum(bits * (2 * place + jnp.uint32(1)), dtype=jnp.uint32)
