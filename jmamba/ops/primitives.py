"""Recurrences as JAX primitives: one op each, with every derivative.

Three primitives, one per map of an op's contract. Those of the selective scan:

    selective_scan            primal                      runs always
    selective_scan_tangent    linear in k directions      its jvp rule: jvp, jacfwd
    selective_scan_cotangent  transpose of the tangent    its transpose: grad, jacrev

A jitted gradient holds the primal and the cotangent only: partial evaluation leaves
the tangent unevaluated and transposition replaces it. Second derivatives differentiate
the reference. Which implementation runs is chosen in `ops.lowering`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from jmamba.ops.folding import fold_batch
from jmamba.ops.lowering import Map, register_lowerings
from jmamba.ops.operation import SELECTIVE_SCAN, SSD, Operation
from jmamba.ops.sharding import vary_together
from jmamba_kernels import accumulation_dtype


class Primitives(NamedTuple):
    """The three primitives of an op."""

    scan: Primitive
    tangent: Primitive
    cotangent: Primitive


def present(inputs: Any) -> dict[str, jax.Array]:
    """Return the operands that are there, by name."""
    return {k: v for k, v in inputs._asdict().items() if v is not None}


# What the primitives compute, on values -----------------------------------------------
# Operands travel as flat lists: `names` says which of the op's they are.


def _run_scan(op, maps, *values, names, save_states, **options):
    result = maps.scan(op.open(values, names), save_states=save_states, **options)
    return list(result) if save_states else list(result[:2])


def _run_tangent(op, maps, *values, names, tangent_names, **options):
    inputs = op.open(values[: len(names)], names)
    tangents = op.open(values[len(names) + 1 :], tangent_names)
    return list(maps.tangent(inputs, tangents, **options))


def _run_cotangent(op, maps, *values, names, wanted, **options):
    inputs = op.open(values[: len(names)], names)
    d_inputs = maps.cotangent(inputs, *values[len(names) :], wanted=wanted, **options)
    return [getattr(d_inputs, name) for name in wanted]


# Axes, by their letters: of operands, and of results ----------------------------------


def _scan_axes(op, *, names, save_states, **_):
    results = ["y", "last_state", *(["chunk_states"] if save_states else [])]
    return [op.axes[name] for name in names], [op.results[name] for name in results]


def _tangent_axes(op, *, names, tangent_names, **_):
    axes = [op.axes[name] for name in names] + [op.results["chunk_states"]]
    moved = ["k" + op.axes[name] for name in tangent_names]
    return axes + moved, ["k" + op.results[name] for name in ("y", "last_state")]


def _cotangent_axes(op, *, names, wanted, **_):
    axes = [op.axes[name] for name in names] + [op.results["chunk_states"]]
    pulled = ["k" + op.results[name] for name in ("y", "last_state")]
    return axes + pulled, ["k" + op.axes[name] for name in wanted]


# Shapes -------------------------------------------------------------------------------


def _shape(like, shape, dtype=None):
    return like.update(shape=shape, dtype=dtype or like.dtype, weak_type=False)


def _scan_shapes(op, *values, names, save_states, **_):
    in_axes, out_axes = _scan_axes(op, names=names, save_states=save_states)
    size = {
        letter: n
        for x, axes in zip(values, in_axes, strict=True)
        for letter, n in zip(axes, x.shape, strict=True)
    }
    size["m"] = -(-size["l"] // op.chunk)
    u = values[0]
    return [
        _shape(
            u,
            tuple(size[letter] for letter in axes),
            None if name in op.narrow else accumulation_dtype(u.dtype),
        )
        for name, axes in zip(op.results, out_axes, strict=False)
    ]


def _tangent_shapes(op, *values, names, tangent_names, **_):
    out = _scan_shapes(op, *values[: len(names)], names=names, save_states=False)
    directions = values[-1].shape[0]
    return [_shape(x, (directions, *x.shape)) for x in out]


def _cotangent_shapes(op, *values, names, wanted, **_):
    directions = values[-1].shape[0]
    by_name = dict(zip(names, values[: len(names)], strict=True))
    return [_shape(by_name[k], (directions, *by_name[k].shape)) for k in wanted]


_MAPS = (
    (_run_scan, _scan_axes, _scan_shapes),
    (_run_tangent, _tangent_axes, _tangent_shapes),
    (_run_cotangent, _cotangent_axes, _cotangent_shapes),
)
"""What a primitive is: functions of an op, and of the primitive's parameters."""


# Derivatives --------------------------------------------------------------------------


def _is_zero(x):
    return type(x) is ad.Zero


def _zeros(x):
    return jnp.zeros(x.aval.shape, x.aval.dtype) if _is_zero(x) else x


def _bind(primitive, *values, **params):
    """Bind a map to operands of which zeros vary over the mesh as the others do."""
    values = vary_together(dict(enumerate(values))).values()
    return primitive.bind(*values, **params)


def _scan_jvp(made: Primitives, primals, tangents, *, save_states, **params):
    out = made.scan.bind(*primals, save_states=True, **params)
    out = [checkpoint_name(x, "scan") for x in out]
    moving = [i for i, t in enumerate(tangents) if not _is_zero(t)]
    d_out = made.tangent.bind(
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


def _tangent_transpose(
    made: Primitives, d_out, *values, names, tangent_names, **params
):
    fixed = values[: len(names) + 1]
    pulled = _bind(
        made.cotangent,
        *fixed,
        *map(_zeros, d_out),
        names=names,
        wanted=tangent_names,
        **params,
    )
    return [None] * len(fixed) + list(pulled)


def _cotangent_transpose(made: Primitives, d_inputs, *values, names, wanted, **params):
    fixed = values[: len(names) + 1]
    pushed = _bind(
        made.tangent,
        *fixed,
        *map(_zeros, d_inputs),
        names=names,
        tangent_names=wanted,
        **params,
    )
    return [None] * len(fixed) + list(pushed)


def _linear_jvp(op, run_map, primitive, primals, tangents, *, names, **params):
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
            maps = op.load("reference")
            return run_map(op, maps, *values, names=names, **params)

        at = tuple(primals[i] for i in moving)
        _, more = jax.jvp(run, at, tuple(tangents[i] for i in moving))
        d_out = [x + y for x, y in zip(d_out, more, strict=True)]
    return out, d_out


# Batching -----------------------------------------------------------------------------


def _batch(op, axes, primitive, values, dims, **params):
    """Fold a batch axis into the map's own axes."""
    bind = partial(primitive.bind, **params)
    return fold_batch(bind, values, dims, *axes(op, **params))


# Registration -------------------------------------------------------------------------


def make_primitives(op: Operation) -> Primitives:
    """Return the primitives of an op, with all their rules."""
    names = op.name, f"{op.name}_tangent", f"{op.name}_cotangent"
    made = Primitives(*map(Primitive, names))
    for primitive, (run, axes, shapes) in zip(made, _MAPS, strict=True):
        primitive.multiple_results = True
        primitive.def_abstract_eval(partial(shapes, op))
        computed = Map(partial(run, op), partial(axes, op), op.choose, op.parallel)
        register_lowerings(primitive, computed)
        batching.primitive_batchers[primitive] = partial(_batch, op, axes, primitive)
        ad.primitive_jvps[primitive] = partial(_linear_jvp, op, run, primitive)
    ad.primitive_jvps[made.scan] = partial(_scan_jvp, made)
    ad.primitive_transposes[made.tangent] = partial(_tangent_transpose, made)
    ad.primitive_transposes[made.cotangent] = partial(_cotangent_transpose, made)
    return made


PRIMITIVES: Mapping[str, Primitives] = {
    op.name: make_primitives(op) for op in (SELECTIVE_SCAN, SSD)
}
"""Name of an op -> its primitives."""

scan_p, tangent_p, cotangent_p = PRIMITIVES[SELECTIVE_SCAN.name]
