"""A sum over a short window of tokens, whose derivatives are such sums too.

    y[t, d] = sum_j keep[t, j] w[d, j] x[t + j, d]          window_sum

XLA computes this in one pass over memory. Left to itself it writes the product of every
tap in the reverse pass (six times the traffic that is needed on a TPU, four times the
time on a CPU). So it is a primitive, bilinear in w and x, and its two transposes are
written as what they are: the same sum with the window reversed, and

    d_w[d, j] = sum_t keep[t, j] g[t, d] x[t + j, d]        window_dot
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jmamba.ops.folding import fold_batch
from jmamba.ops.sharding import vary_together

sum_p = Primitive("window_sum")
dot_p = Primitive("window_dot")
_AXES = {"x": "bsd", "w": "dj", "keep": "btj", "y": "btd"}


def window_sum(x, w, keep=None) -> jax.Array:
    """Return y[t, d] = sum_j keep[t, j] w[d, j] x[t + j, d].

    Args:
      x: shape (b, l + k - 1, d).
      w: shape (d, k), in the dtype of the result.
      keep: shape (b, l, k), booleans; None keeps all.

    Returns:
      y of shape (b, l, d).
    """
    parts = {"x": x, "w": w} | ({} if keep is None else {"keep": keep})
    return sum_p.bind(*vary_together(parts).values())


# Values -------------------------------------------------------------------------------


def _terms(x, keep, length, window):
    """Return for each tap the tokens it reads, zero where they are not kept."""
    for j in range(window):
        term = x[:, j : j + length]
        yield term if keep is None else jnp.where(keep[:, :, j, None], term, 0)


def _sum(x, w, keep=None):
    window = w.shape[1]
    terms = _terms(x.astype(w.dtype), keep, x.shape[1] - window + 1, window)
    return sum(w[None, None, :, j] * term for j, term in enumerate(terms))


def _dot(g, x, keep=None):
    window = x.shape[1] - g.shape[1] + 1
    terms = _terms(x.astype(g.dtype), keep, g.shape[1], window)
    return jnp.stack([jnp.sum(g * term, axis=(0, 1)) for term in terms], axis=-1)


def _sum_shape(x, w, *keep):
    batch, tokens, channels = x.shape
    shape = (batch, tokens - w.shape[1] + 1, channels)
    return x.update(shape=shape, dtype=w.dtype, weak_type=False)


def _dot_shape(g, x, *keep):
    shape = (g.shape[2], x.shape[1] - g.shape[1] + 1)
    return g.update(shape=shape, weak_type=False)


# Derivatives: both are bilinear in their first two operands ---------------------------


def _jvp(primitive, primals, tangents):
    (first, second, *keep), (d_first, d_second, *_) = primals, tangents
    out = primitive.bind(*primals)
    moved = []
    if type(d_first) is not ad.Zero:
        moved.append(primitive.bind(d_first, second, *keep))
    if type(d_second) is not ad.Zero:
        moved.append(primitive.bind(first, d_second, *keep))
    if not moved:
        return out, ad.Zero(jax.typeof(out).to_tangent_aval())
    return out, sum(moved[1:], moved[0])


def _spread_over_window(g, w, keep, like):
    """Transpose the sum in x: d_x[s] = sum_j keep[s-j, j] w[j] g[s-j]."""
    window = w.shape[1]
    g = jnp.pad(g, ((0, 0), (window - 1, window - 1), (0, 0)))
    if keep is not None:
        rows = [
            jnp.pad(keep[:, :, j], ((0, 0), (j, window - 1 - j))) for j in range(window)
        ]
        keep = jnp.stack(rows[::-1], axis=-1)
    return window_sum(g, w[:, ::-1], keep).astype(like.dtype)


def _window_dot(g, x, keep):
    parts = {"g": g, "x": x} | ({} if keep is None else {"keep": keep})
    return dot_p.bind(*vary_together(parts).values())


def _sum_transpose(g, x, w, keep=None):
    if type(g) is ad.Zero:
        return [None] * (2 if keep is None else 3)
    if ad.is_undefined_primal(x):
        out = [_spread_over_window(g, w, keep, x.aval), None]
    else:
        out = [None, _window_dot(g, x, keep).astype(w.aval.dtype)]
    return out if keep is None else [*out, None]


def _dot_transpose(d_w, g, x, keep=None):
    if type(d_w) is ad.Zero:
        return [None] * (2 if keep is None else 3)
    if ad.is_undefined_primal(g):
        out = [window_sum(x, d_w, keep).astype(g.aval.dtype), None]
    else:
        # d_w multiplies like w, and g like the cotangent of y
        out = [None, _spread_over_window(g, d_w, keep, x.aval)]
    return out if keep is None else [*out, None]


def _batch(primitive, axes, out_axes, values, dims):
    axes = [*axes, _AXES["keep"]][: len(values)]
    out, out_dims = fold_batch(
        lambda *parts: [primitive.bind(*parts)], values, dims, axes, [out_axes]
    )
    return out[0], out_dims[0]


def _register(primitive, run, shape, transpose, axes, out_axes):
    primitive.def_impl(jax.jit(run))
    primitive.def_abstract_eval(shape)
    mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=False))
    ad.primitive_jvps[primitive] = partial(_jvp, primitive)
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = partial(
        _batch, primitive, [_AXES[name] for name in axes], _AXES[out_axes]
    )


_register(sum_p, _sum, _sum_shape, _sum_transpose, ("x", "w"), "y")
_register(dot_p, _dot, _dot_shape, _dot_transpose, ("y", "x"), "w")
