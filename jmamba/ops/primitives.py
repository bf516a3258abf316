"""The selective scan as JAX primitives: one op with every derivative.

Three primitives, one per map of `jmamba_kernels.selective_scan.contract`:

    selective_scan            primal                      runs always
    selective_scan_tangent    linear in k directions      its jvp rule: jvp, jacfwd
    selective_scan_cotangent  transpose of the tangent    its transpose: grad, jacrev

A jitted gradient holds the primal and the cotangent only: partial evaluation leaves
the tangent unevaluated and transposition replaces it. Second derivatives differentiate
the reference. Which implementation runs is chosen in `ops.lowering`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from jmamba.ops.folding import fold_batch
from jmamba.ops.lowering import Map, register_lowerings
from jmamba.ops.sharding import vary_together
from jmamba_kernels import (
    ScanInputs,
    accumulation_dtype,
    choose,
    load,
    num_chunks,
)

scan_p = Primitive("selective_scan")
tangent_p = Primitive("selective_scan_tangent")
cotangent_p = Primitive("selective_scan_cotangent")
for _primitive in (scan_p, tangent_p, cotangent_p):
    _primitive.multiple_results = True

NO_INPUTS = ScanInputs(*[None] * len(ScanInputs._fields))  # pyright: ignore[reportArgumentType]


def present(inputs: ScanInputs) -> dict[str, jax.Array]:
    """Return the operands that are there, by name."""
    return {k: v for k, v in inputs._asdict().items() if v is not None}


# What the primitives compute, on values -----------------------------------------------
# Operands travel as flat lists: `names` says which of ScanInputs' fields they are.


def _inputs(values, names) -> ScanInputs:
    return NO_INPUTS._replace(**dict(zip(names, values, strict=True)))


def _run_scan(maps, *values, names, delta_softplus, save_states):
    inputs = _inputs(values, names)
    result = maps.scan(inputs, delta_softplus=delta_softplus, save_states=save_states)
    return list(result) if save_states else list(result[:2])


def _run_tangent(maps, *values, names, tangent_names, delta_softplus):
    inputs = _inputs(values[: len(names)], names)
    tangents = _inputs(values[len(names) + 1 :], tangent_names)
    return list(maps.tangent(inputs, tangents, delta_softplus=delta_softplus))


def _run_cotangent(maps, *values, names, wanted, delta_softplus):
    inputs = _inputs(values[: len(names)], names)
    d_inputs = maps.cotangent(
        inputs,
        *values[len(names) :],
        delta_softplus=delta_softplus,
        wanted=wanted,
    )
    return [getattr(d_inputs, name) for name in wanted]


_RUN = {scan_p: _run_scan, tangent_p: _run_tangent, cotangent_p: _run_cotangent}


# Axes, by their letters: of operands, and of results ----------------------------------

OPERAND_AXES = {
    "u": "bld",
    "delta": "bld",
    "A": "dn",
    "B": "blgn",
    "C": "blgn",
    "D": "d",
    "z": "bld",
    "delta_bias": "d",
    "initial_state": "bdn",
    "segment_ids": "bl",
}
"""Axes of each operand of the scan."""

_OUT_AXES = {"y": "bld", "last_state": "bdn", "chunk_states": "bmnd"}


def _scan_axes(*, names, save_states, **_):
    results = ["y", "last_state", *(["chunk_states"] if save_states else [])]
    return [OPERAND_AXES[name] for name in names], [_OUT_AXES[name] for name in results]


def _tangent_axes(*, names, tangent_names, **_):
    axes = [OPERAND_AXES[name] for name in names] + [_OUT_AXES["chunk_states"]]
    return axes + ["k" + OPERAND_AXES[name] for name in tangent_names], ["kbld", "kbdn"]


def _cotangent_axes(*, names, wanted, **_):
    axes = [OPERAND_AXES[name] for name in names] + [_OUT_AXES["chunk_states"]]
    return axes + ["kbld", "kbdn"], ["k" + OPERAND_AXES[name] for name in wanted]


_AXES = {scan_p: _scan_axes, tangent_p: _tangent_axes, cotangent_p: _cotangent_axes}


# Shapes -------------------------------------------------------------------------------


def _shape(like, shape, dtype=None):
    return like.update(shape=shape, dtype=dtype or like.dtype, weak_type=False)


def _scan_shapes(u, *rest, names, save_states, **_):
    batch, length, channels = u.shape
    n = rest[names.index("A") - 1].shape[1]
    dtype = accumulation_dtype(u.dtype)
    out = [_shape(u, u.shape), _shape(u, (batch, channels, n), dtype)]
    if save_states:
        out.append(_shape(u, (batch, num_chunks(length), n, channels), dtype))
    return out


def _tangent_shapes(u, *rest, names, tangent_names, **_):
    y, last_state = _scan_shapes(u, *rest, names=names, save_states=False)
    directions = rest[-1].shape[0]
    return [_shape(x, (directions, *x.shape)) for x in (y, last_state)]


def _cotangent_shapes(*values, names, wanted, **_):
    directions = values[-1].shape[0]
    by_name = dict(zip(names, values[: len(names)], strict=True))
    return [_shape(by_name[k], (directions, *by_name[k].shape)) for k in wanted]


scan_p.def_abstract_eval(_scan_shapes)
tangent_p.def_abstract_eval(_tangent_shapes)
cotangent_p.def_abstract_eval(_cotangent_shapes)
for _primitive in (scan_p, tangent_p, cotangent_p):
    register_lowerings(_primitive, Map(_RUN[_primitive], _AXES[_primitive], choose))


# Derivatives --------------------------------------------------------------------------


def _is_zero(x):
    return type(x) is ad.Zero


def _zeros(x):
    return jnp.zeros(x.aval.shape, x.aval.dtype) if _is_zero(x) else x


def _bind(primitive, *values, **params):
    """Bind a map to operands of which zeros vary over the mesh as the others do."""
    values = vary_together(dict(enumerate(values))).values()
    return primitive.bind(*values, **params)


def _scan_jvp(primals, tangents, *, save_states, **params):
    out = scan_p.bind(*primals, save_states=True, **params)
    out = [checkpoint_name(x, "scan") for x in out]
    moving = [i for i, t in enumerate(tangents) if not _is_zero(t)]
    d_out = tangent_p.bind(
        *primals,
        out[2],
        *(tangents[i][None] for i in moving),
        tangent_names=tuple(params["names"][i] for i in moving),
        **params,
    )
    d_out = [x[0] for x in d_out]
    if save_states:  # a residual of the other maps, which depend on the inputs alone
        d_out.append(ad.Zero(jax.typeof(out[2]).to_tangent_aval()))
    return (out, d_out) if save_states else (out[:2], d_out)


def _tangent_transpose(d_out, *values, names, tangent_names, **params):
    fixed = values[: len(names) + 1]
    pulled = _bind(
        cotangent_p,
        *fixed,
        *map(_zeros, d_out),
        names=names,
        wanted=tangent_names,
        **params,
    )
    return [None] * len(fixed) + list(pulled)


def _cotangent_transpose(d_inputs, *values, names, wanted, **params):
    fixed = values[: len(names) + 1]
    pushed = _bind(
        tangent_p,
        *fixed,
        *map(_zeros, d_inputs),
        names=names,
        tangent_names=wanted,
        **params,
    )
    return [None] * len(fixed) + list(pushed)


def _linear_jvp(primitive, primals, tangents, *, names, **params):
    """Differentiate a map that is linear in its last operands, not in its inputs.

    The linear part is the same map; the other part differentiates the reference.
    """
    fixed = len(names) + 1  # the inputs and the saved states
    out = primitive.bind(*primals, names=names, **params)
    d_out = [jnp.zeros_like(x) for x in out]
    if not all(map(_is_zero, tangents[fixed:])):
        moved = map(_zeros, tangents[fixed:])
        d_out = _bind(primitive, *primals[:fixed], *moved, names=names, **params)
    moving = [i for i, t in enumerate(tangents[: fixed - 1]) if not _is_zero(t)]
    if moving:
        params = {k: v for k, v in params.items() if k != "implementation"}

        def run(*parts):
            values = list(primals)
            for i, part in zip(moving, parts, strict=True):
                values[i] = part
            maps = load("reference")
            return _RUN[primitive](maps, *values, names=names, **params)

        at = tuple(primals[i] for i in moving)
        _, more = jax.jvp(run, at, tuple(tangents[i] for i in moving))
        d_out = [x + y for x, y in zip(d_out, more, strict=True)]
    return out, d_out


ad.primitive_jvps[scan_p] = _scan_jvp
ad.primitive_jvps[tangent_p] = partial(_linear_jvp, tangent_p)
ad.primitive_jvps[cotangent_p] = partial(_linear_jvp, cotangent_p)
ad.primitive_transposes[tangent_p] = _tangent_transpose
ad.primitive_transposes[cotangent_p] = _cotangent_transpose


# Batching -----------------------------------------------------------------------------


def _batch(primitive, values, dims, **params):
    """Fold a batch axis into the map's own axes."""
    bind = partial(primitive.bind, **params)
    params = {k: v for k, v in params.items() if k != "implementation"}
    return fold_batch(bind, values, dims, *_AXES[primitive](**params))


for _primitive in (scan_p, tangent_p, cotangent_p):
    batching.primitive_batchers[_primitive] = partial(_batch, _primitive)
