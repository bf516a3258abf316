"""Launches of the GPU kernels: what each reads and writes, for any backend.

Arrays are padded and plain here; states are (..., s, n, d) with s segments. A backend
may view their last axes otherwise (`Backend.view`), at no cost.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmamba_kernels.selective_scan.gpu import kernels
from jmamba_kernels.selective_scan.gpu.blocks import Blocks, Operands, Shape

MOST_DIRECTIONS = 2
"""Directions that one program takes, sharing decays and states (4 fill registers)."""

KINDS = {
    "u": "channels", "delta": "channels", "z": "channels", "D": "channels",
    "delta_bias": "channels", "B": "gates", "C": "gates", "A": "states", "g": "states",
    "keep": "plain",
}  # fmt: skip
"""Which axes end an array: channels (d), gates (n), states (n, d), plain (others)."""


class Backend(NamedTuple):
    """What a backend provides.

    Attributes:
      name: of the implementation.
      scan_shape, tangent_shape, cotangent_shape: what each map likes.
      view: (kind, shape, k) -> the shape in which its programs index an array.
      launch: (kernel, name, k, out_shape, rows, delta_softplus, **static) -> function
        of the operands; `rows` programs share a batch row, and `static` goes to the
        kernel.
    """

    name: str
    scan_shape: Shape
    tangent_shape: Shape
    cotangent_shape: Shape
    view: Callable[[str, tuple[int, ...], Blocks], tuple[int, ...]]
    launch: Callable[..., Callable[..., Any]]


class Laid(NamedTuple):
    """An array, or the shape of one to write, and its kind."""

    kind: str
    value: Any


class Pulled(NamedTuple):
    """Cotangents as a kernel writes them; what is not wanted is None.

    Those of parameters are partial sums, of each row and segment (A, D, delta_bias) or
    of each channel block (B, C).
    """

    g: Float[Array, "k b s n d"]
    u: Float[Array, "k b l d"] | None = None
    delta: Float[Array, "k b l d"] | None = None
    z: Float[Array, "k b l d"] | None = None
    A: Float[Array, "k b s n d"] | None = None
    B: Float[Array, "blocks k b l n"] | None = None
    C: Float[Array, "blocks k b l n"] | None = None
    D: Float[Array, "k b s d"] | None = None
    delta_bias: Float[Array, "k b s d"] | None = None


def struct(shape, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    """Return what a kernel writes."""
    return jax.ShapeDtypeStruct(shape, dtype)


def together(directions: int) -> int:
    """Return how many directions a program takes: a divisor of all."""
    return max(k for k in range(1, MOST_DIRECTIONS + 1) if directions % k == 0)


def _is_laid(x) -> bool:
    return isinstance(x, Laid)


def run_kernel(
    backend: Backend, kernel, name, k: Blocks, operands, out, *, rows=1, **static
):
    """Launch a kernel on operands of several kinds; return arrays in the shapes of out.

    Args:
      backend: who runs it.
      kernel: a body of `gpu.kernels`.
      name: what compiled text calls it, after the backend's name.
      k: sizes of the launch.
      operands: a list of pytrees of Laid, or None.
      out: a pytree of Laid shapes.
      rows: programs that share a batch row.
      **static: what the kernel is made for.
    """

    def view(x: Laid):
        shape = backend.view(x.kind, x.value.shape, k)
        if isinstance(x.value, jax.ShapeDtypeStruct):
            return struct(shape, x.value.dtype)
        return x.value.reshape(shape)

    views, shapes = (jax.tree.map(view, x, is_leaf=_is_laid) for x in (operands, out))
    written = backend.launch(kernel, name, k, shapes, rows=rows, **static)(*views)
    wanted = jax.tree.leaves(out, is_leaf=_is_laid)
    leaves = [
        x.reshape(w.value.shape)
        for x, w in zip(jax.tree.leaves(written), wanted, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(written), leaves)


def lay(x: Operands) -> Operands:
    """Say the kind of every operand."""
    laid = {f: None if v is None else Laid(KINDS[f], v) for f, v in x._asdict().items()}
    return Operands(**laid)  # pyright: ignore[reportArgumentType]


def run_scan(backend, x: Operands, starts, k: Blocks, save_states: bool, **static):
    """Return y, the end of every segment, and the saved states or None."""
    out = [
        Laid("channels", struct(x.u.shape, x.u.dtype)),
        Laid("states", struct(starts.shape)),
    ]
    if save_states:
        saved = struct((k.batch, k.chunks, k.n, k.padded))
        out.append(Laid("states", saved))
    operands = [lay(x), Laid("states", starts)]
    y, ends, *saved = run_kernel(
        backend, kernels.scan_body, "scan", k, operands, out, **static
    )
    return y, ends, saved[0] if save_states else None


def run_segment_ends(backend, x: Operands, k: Blocks, **static):
    """Return the end of every segment from zero, and its decay."""
    out = [Laid("states", struct((k.batch, k.segments, k.n, k.padded)))] * 2
    kernel = kernels.segment_ends_body
    return run_kernel(backend, kernel, "segment_ends", k, [lay(x)], out, **static)


def run_segment_starts(backend, x: Operands, d_y, k: Blocks, **static):
    """Return the same for the reversed recurrence."""
    directions, decay = d_y.shape[0], (k.batch, k.segments, k.n, k.padded)
    out = [Laid("states", struct((directions, *decay))), Laid("states", struct(decay))]
    count = together(directions)
    return run_kernel(
        backend, kernels.segment_starts_body, "segment_starts", k,
        [lay(x), Laid("channels", d_y)], out,
        rows=directions // count, together=count, **static,
    )  # fmt: skip


def run_tangent(
    backend, x: Operands, t: Operands, starts, k: Blocks, *, d_starts, **static
):
    """Return d_y and the tangent of every segment's end."""
    directions = d_starts.shape[0]
    out = [
        Laid("channels", struct((directions, *x.u.shape), x.u.dtype)),
        Laid("states", struct(d_starts.shape)),
    ]
    operands = [lay(x), lay(t), Laid("states", starts), Laid("states", d_starts)]
    count = together(directions)
    return run_kernel(
        backend, kernels.tangent_body, "tangent", k, operands, out,
        rows=directions // count, together=count, **static,
    )  # fmt: skip


def run_cotangent(
    backend, x: Operands, chunk_states, d_y, g_ends, k: Blocks, wanted, **static
) -> Pulled:
    """Return the cotangents of the wanted operands, some as partial sums."""
    directions, b, l = d_y.shape[:3]  # noqa: E741
    by_state = (directions, b, k.segments, k.n, k.padded)
    parameters = (directions, b, k.segments, k.padded)
    gates = (k.blocks, directions, b, l, k.n)
    shapes = {"g": by_state, "A": by_state, "B": gates, "C": gates, "D": parameters,
              "delta_bias": parameters}  # fmt: skip
    out = {}
    for f in ("g", *wanted):
        if f in shapes:
            out[f] = Laid(KINDS[f], struct(shapes[f]))
        elif f in ("u", "delta", "z"):
            dtype = getattr(x, f).dtype
            out[f] = Laid("channels", struct((directions, b, l, k.padded), dtype))
    operands = [
        lay(x), Laid("states", chunk_states), Laid("channels", d_y),
        Laid("states", g_ends),
    ]  # fmt: skip
    count = together(directions)
    return Pulled(**run_kernel(
        backend, kernels.cotangent_body, "cotangent", k, operands, out,
        rows=directions // count, together=count, **static,
    ))  # fmt: skip
