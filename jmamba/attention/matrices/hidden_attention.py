"""The hidden attention matrices of a layer, head by head or channel by channel."""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jmamba.attention.matrices.channels import (
    attend,
    elapsed_time,
    measure_inputs,
    open_directions,
)
from jmamba.attention.matrices.factors import AnyInputs, check_fold, first_recurrence
from jmamba.attention.matrices.gated import attend_heads
from jmamba.ops.meshes import on_any_mesh
from jmamba.requests import RESULT_BYTES, check_finite, check_memory, choose_positions
from jmamba.types import OF_HEADS, OfHeads, Recurrence, SideBySide, SoftmaxAttention


@on_any_mesh
def hidden_attention(
    recurrence: AnyInputs | OfHeads | SideBySide,
    *,
    fold: Collection[str] = (),
    channels: Sequence[int] | None = None,
    rows: Sequence[int] | None = None,
    memory_limit: int = RESULT_BYTES,
) -> Float[Array, "b c q l"]:
    """Return exact attention matrices of one layer, one per head or channel.

    See `channel_attention` for the formula; of a layer of softmax attention they are
    its weights. A single row costs O(l d n). A layer has a
    matrix for each head of its recurrence, which in Mamba-1 are its channels. The
    matrices of both directions of Vision Mamba add up to full ones; that the mixer
    halves their sum is left out, as in the paper.

    With `fold` more of the mixer becomes part of the matrix, from the right to the left

        gate (alpha + D) slope conv    with slope = sigma(a) of silu(a) = sigma(a) a

    and each part that is not named is left out, which is its ablation. With all of them
    `alpha @ x + bias_output` is exactly what the output projection reads. These parts
    differ between the channels of a head, so that there is then a matrix per channel.

    Args:
      recurrence: of a layer, `trace(...).layer(i)`, or its `factorise`; or one that
        `jmamba.recurrences` makes of parameters, into which nothing can be folded.
      fold: some of "D", "silu", "conv", "gate"; but for D they need factors.
      channels: which heads, or folded channels; None for all.
      rows: which query positions, negative ones from the end; None for all l.
      memory_limit: bytes the result may take.

    Raises:
      ValueError: a channel, row or part does not exist, a parameter is not finite
        (nothing is checked while tracing), or the result would be larger than the
        limit; the message names the bytes and what to do.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> from jmamba.layers.recurrence import run_recurrence
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> recurrence = jmamba.trace(model, jnp.array([list(b"hello")])).layer(1)
      >>> alpha = hidden_attention(recurrence)
      >>> alpha.shape
      (1, 32, 5, 5)
      >>> y = run_recurrence(recurrence._replace(D=None)).y  # before the gate
      >>> seen = jnp.einsum("bdij,bjd->bid", alpha, recurrence.u)
      >>> bool(jnp.allclose(seen, y, atol=1e-6))
      True

    References:
      Ali, Zimerman & Wolf, "The Hidden Attention of Mamba Models", ACL 2025, eq. 14-16.
      Zimerman et al., arXiv 2405.16504, section 3, for `fold`.
    """
    check_fold(recurrence, fold)
    check_finite(recurrence._asdict(), "attention")
    batch, length, matrices, dtype = measure_inputs(recurrence, fold)
    if isinstance(recurrence, SideBySide):
        return _side_by_side(recurrence, matrices, fold, channels, rows, memory_limit)
    queries = choose_positions(rows, length, "rows")
    chosen = choose_positions(channels, matrices, "channels")
    sizes = {"texts": batch, "channels": len(chosen)}
    sizes |= {"rows": len(queries), "tokens": length}
    check_memory("hidden_attention", sizes, dtype.itemsize, memory_limit)
    if isinstance(recurrence, OfHeads):
        return _attention_of_heads(recurrence, chosen, queries)
    queries = None if rows is None else queries
    return _hidden_attention(recurrence, chosen, queries, tuple(fold))


def _side_by_side(recurrence, matrices, fold, channels, rows, memory_limit):
    """Return the matrices of the recurrence, and those of the attention behind them."""
    attention = recurrence.attention
    first = matrices - attention.queries.shape[2]
    chosen = choose_positions(channels, matrices, "channels").tolist()
    limit: dict[str, Any] = {"rows": rows, "memory_limit": memory_limit}
    parts = [
        (recurrence.recurrent, fold, [i for i in chosen if i < first]),
        (attention, (), [i - first for i in chosen if i >= first]),
    ]
    made = [
        hidden_attention(one, fold=folded, channels=own, **limit)
        for one, folded, own in parts
        if own
    ]
    order = sorted(range(len(chosen)), key=lambda i: (chosen[i] >= first, i))
    return jnp.concatenate(made, axis=1)[:, np.argsort(order)]


@jax.jit
def _attention_of_heads(recurrence, heads, rows):
    if isinstance(recurrence, SoftmaxAttention):  # heads share keys
        return attend_heads(recurrence, rows)[:, heads]
    chosen = {
        name: x[heads] if name in OF_HEADS else x[:, :, heads]
        for name, x in recurrence.bare._asdict().items()
        if x is not None
    }
    return attend_heads(recurrence._replace(**chosen), rows)


@partial(jax.jit, static_argnames="fold")
def _hidden_attention(recurrence, channels, rows, fold):
    directions = tuple(
        one._replace(channels=jax.tree.map(lambda x: x[channels], one.channels))
        for one in open_directions(recurrence, fold)
    )
    if rows is not None:
        batch = directions[0].B.shape[0]
        rows = jnp.broadcast_to(rows[None], (batch, len(rows)))
    return jnp.swapaxes(attend(directions, rows), 0, 1)  # c b q l -> b c q l


@on_any_mesh
def inner_attention(
    recurrence: Recurrence,
    *,
    channels: Sequence[int] | None = None,
    rows: Sequence[int] | None = None,
    memory_limit: int = RESULT_BYTES,
) -> Float[Array, "b c n q l"]:
    """Return the matrices of single states, whose sum over n is `hidden_attention`.

        alpha[n][i, j] = C[i, n] exp(A[n] sum_{j < k <= i} delta[k]) delta[j] B[j, n]

    Args:
      recurrence: of a layer; of Vision Mamba that of one direction.
      channels: which heads, in Mamba-1 channels; None for all.
      rows: which query positions, negative ones from the end; None for all l.
      memory_limit: bytes the result may take.

    Raises:
      TypeError: these are both directions of Vision Mamba, or factors.
      ValueError: a channel or row does not exist, a parameter is not finite, or the
        result would be larger than the limit.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> recurrence = jmamba.trace(model, jnp.array([list(b"hello")])).layer(1)
      >>> inner = inner_attention(recurrence, channels=[0, 7])
      >>> inner.shape
      (1, 2, 16, 5, 5)
      >>> alpha = hidden_attention(recurrence, channels=[0, 7])
      >>> bool(jnp.allclose(jnp.sum(inner, axis=2), alpha, atol=1e-6))
      True

    References:
      Ali, Zimerman & Wolf, ACL 2025, section 3.2: a Mamba layer has d n matrices.
    """
    if not isinstance(recurrence, Recurrence):
        raise TypeError(
            "inner_attention needs the recurrence of one direction, but got "
            f"{type(recurrence).__name__}: give recurrence.forward or "
            "recurrence.backward of two directions, and factors.recurrence of factors."
        )
    first_recurrence(recurrence)  # which looks at its sizes
    check_finite(recurrence._asdict(), "attention")
    queries = choose_positions(rows, recurrence.u.shape[1], "rows")
    chosen = choose_positions(channels, recurrence.delta.shape[2], "channels")
    check_memory(
        "inner_attention",
        {
            "texts": recurrence.u.shape[0],
            "channels": len(chosen),
            "states": recurrence.B.shape[3],
            "rows": len(queries),
            "tokens": recurrence.u.shape[1],
        },
        recurrence.delta.dtype.itemsize,
        memory_limit,
    )
    return _inner_attention(recurrence, chosen, queries)


@jax.jit
def _inner_attention(recurrence, channels, rows):
    delta, A, B, C = recurrence.delta, recurrence.A, recurrence.B, recurrence.C
    heads, (groups, states) = delta.shape[-1], B.shape[-2:]
    A = jnp.broadcast_to(A, (heads, states))
    own = channels // (heads // groups)
    B, C = (x.astype(delta.dtype)[:, :, own] for x in (B, C))  # b l c n

    def state(delta, a, B, C):
        elapsed, causal = elapsed_time(delta, rows)
        decay = jnp.exp(jnp.where(causal, a * elapsed, -jnp.inf))
        return C[rows][:, None] * decay * (delta * B)[None]

    each = jax.vmap(state, in_axes=(None, 0, 1, 1))
    each = jax.vmap(each, in_axes=(1, 0, 1, 1))
    return jax.vmap(each, in_axes=(0, None, 0, 0))(
        delta[:, :, channels], A[channels], B, C
    )
