"""The transforms of the derivative table: each a function of a scan and its operands.

A scan maps ScanInputs to ScanOutput; every transform returns a pytree of arrays.
"""

import jax
import jax.numpy as jnp
import numpy as np
from helpers import differentiable

from jmamba_kernels import ScanInputs

TRANSFORMS = {}
"""Name -> transform."""


def transform(function):
    """Enter a transform in the table."""
    TRANSFORMS[function.__name__] = function
    return function


def randoms(tree, seed: int):
    """Return normal numbers in the shapes and dtypes of a pytree."""
    draw = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(draw.standard_normal(x.shape), x.dtype), tree
    )


def weigh(outputs):
    """Return a number on which every output has its own influence."""
    terms = jax.tree.map(lambda w, x: jnp.sum(w * x), randoms(outputs, 1), outputs)
    return jax.tree.reduce(jnp.add, terms)


def variants(inputs: ScanInputs, names, count: int = 3):
    """Return the named operands with a new leading axis of different values."""

    def vary(name, x):
        if name == "segment_ids":
            return jnp.stack([jnp.roll(x, i, axis=1) for i in range(count)])
        scale = jnp.linspace(0.8, 1.2, count, dtype=x.dtype)
        return x[None] * scale.reshape(count, *[1] * x.ndim)

    return {name: vary(name, getattr(inputs, name)) for name in names}


def of_parts(scan, inputs, names=None):
    """Return the scan as a function of a dict of operands, and that dict."""
    parts = differentiable(inputs)
    parts = parts if names is None else {k: parts[k] for k in names}
    return lambda parts: scan(inputs._replace(**parts)), parts


@transform
def grad_and_jvp(scan, inputs):
    run, parts = of_parts(scan, inputs)
    gradient = jax.grad(lambda p: weigh(run(p)))(parts)
    return gradient, jax.jvp(run, (parts,), (randoms(parts, 2),))


@transform
def jvp(scan, inputs):
    run, parts = of_parts(scan, inputs)
    return jax.jvp(run, (parts,), (randoms(parts, 2),))


@transform
def jvp_along_each_operand(scan, inputs):
    results = {}
    for name in differentiable(inputs):
        run, parts = of_parts(scan, inputs, [name])
        results[name] = jax.jvp(run, (parts,), (randoms(parts, 2),))[1]
    return results


@transform
def grad_of_y_alone(scan, inputs):
    run, parts = of_parts(scan, inputs)
    return jax.grad(lambda p: weigh(run(p).y))(parts)


@transform
def grad_of_last_state_alone(scan, inputs):
    run, parts = of_parts(scan, inputs, ["u", "delta", "A", "B"])
    return jax.grad(lambda p: weigh(run(p).last_state))(parts)


@transform
def jacfwd(scan, inputs):
    run, parts = of_parts(scan, inputs)
    return jax.jacfwd(run)(parts)


@transform
def jacrev(scan, inputs):
    run, parts = of_parts(scan, inputs)
    return jax.jacrev(run)(parts)


@transform
def hessian(scan, inputs):
    run, parts = of_parts(scan, inputs, ["delta", "A", "B"])
    return jax.hessian(lambda p: weigh(run(p)))(parts)


@transform
def linearize(scan, inputs):
    run, parts = of_parts(scan, inputs)
    out, push = jax.linearize(run, parts)
    return out, push(randoms(parts, 2))


@transform
def linear_transpose_of_linearize(scan, inputs):
    run, parts = of_parts(scan, inputs)
    out, push = jax.linearize(run, parts)
    return jax.linear_transpose(push, parts)(randoms(out, 3))


@transform
def linear_transpose_of_vjp(scan, inputs):
    run, parts = of_parts(scan, inputs)
    out, pull = jax.vjp(run, parts)
    return jax.linear_transpose(lambda d: pull(d)[0], out)(randoms(parts, 3))


@transform
def checkpoint(scan, inputs):
    run, parts = of_parts(scan, inputs)
    run = jax.checkpoint(run)
    return jax.grad(lambda p: weigh(jnp.sin(run(p).y)))(parts)


@transform
def grad_of_jvp(scan, inputs):
    run, parts = of_parts(scan, inputs, ["u", "delta", "A", "C"])

    def along(parts):
        return weigh(jax.jvp(run, (parts,), (randoms(parts, 2),)))

    return jax.grad(along)(parts)


@transform
def jvp_of_grad(scan, inputs):
    run, parts = of_parts(scan, inputs, ["u", "delta", "A", "C"])
    gradient = jax.grad(lambda p: weigh(run(p)))
    return jax.jvp(gradient, (parts,), (randoms(parts, 2),))[1]


@transform
def vmap_over_each_operand(scan, inputs):
    results = {}
    for name, x in inputs._asdict().items():
        if x is not None:
            run, _ = of_parts(scan, inputs)
            results[name] = jax.vmap(run)(variants(inputs, [name]))
    return results


@transform
def vmap_over_several_operands(scan, inputs):
    run, _ = of_parts(scan, inputs)
    there = [name for name, x in inputs._asdict().items() if x is not None]
    sets = {
        "all": there,
        "sequences": [k for k in there if k not in ("A", "D", "delta_bias")],
        "rates and segments": [k for k in there if k in ("A", "segment_ids")],
    }
    return {k: jax.vmap(run)(variants(inputs, names)) for k, names in sets.items()}


@transform
def vmap_over_last_axes(scan, inputs):
    run, _ = of_parts(scan, inputs)
    moved = {k: jnp.moveaxis(x, 0, -1) for k, x in variants(inputs, ["u", "A"]).items()}
    return jax.vmap(run, in_axes=-1, out_axes=1)(moved)


@transform
def vmap_twice(scan, inputs):
    run, _ = of_parts(scan, inputs)

    def over_rates(u):
        return jax.vmap(lambda A: run({"A": A, "u": u}))(variants(inputs, ["A"])["A"])

    return jax.vmap(over_rates)(variants(inputs, ["u"])["u"])


@transform
def vmap_of_grad(scan, inputs):
    """Per-example gradients of the parameters."""

    def loss(parts, sequence):
        return weigh(scan(inputs._replace(**parts, **sequence)))

    parameters = {k: v for k, v in differentiable(inputs).items() if k in "AD"}
    sequences = variants(inputs, ["u", "delta", "B", "C"])
    return jax.vmap(jax.grad(loss), (None, 0))(parameters, sequences)


@transform
def vmap_of_grad_over_parameters(scan, inputs):
    """Gradients of an ensemble: every member has its own parameters and segments."""
    run, parts = of_parts(scan, inputs, ["u", "A"])
    names = [*parts, *(["segment_ids"] if inputs.segment_ids is not None else [])]

    def gradient(member):
        return jax.grad(lambda p: weigh(run({**member, **p})))(
            {k: member[k] for k in parts}
        )

    return jax.vmap(gradient)(variants(inputs, names))


@transform
def jacfwd_under_vmap(scan, inputs):
    run, _ = of_parts(scan, inputs)
    sequences = variants(inputs, ["u", "delta"])

    def jacobian(sequence):
        return jax.jacfwd(lambda delta: run({**sequence, "delta": delta}))(
            sequence["delta"]
        )

    return jax.vmap(jacobian)(sequences)


@transform
def jacrev_under_vmap(scan, inputs):
    run, _ = of_parts(scan, inputs)
    return jax.vmap(jax.jacrev(run))(variants(inputs, ["A"]))


@transform
def grad_of_scan_over_layers(scan, inputs):
    layers = variants(inputs, ["A"])

    def loss(layers, u):
        def layer(u, parts):
            y, last_state = scan(inputs._replace(u=u, **parts))
            return jnp.tanh(y), last_state

        return weigh(jax.lax.scan(layer, u, layers))

    return jax.grad(loss, argnums=(0, 1))(layers, inputs.u)
