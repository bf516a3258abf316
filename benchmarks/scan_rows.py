"""The scan alone: programs of it beside its peers', and what one of its steps takes."""

import jax
import jax.numpy as jnp
import numpy as np
from peers import torch_scan
from programs import jax_program
from timing import interleave

from jmamba.ops import selective_scan


def scan_operands(length, *, channels=1536, states=16):
    """Draw u, delta, A, B, C of one text."""
    draw = np.random.default_rng(0)

    def normal(*shape):
        return draw.standard_normal(shape, np.float32)

    return (
        normal(1, length, channels),
        draw.uniform(1e-3, 0.1, (1, length, channels)).astype(np.float32),
        -np.tile(np.arange(1, states + 1, dtype=np.float32), (channels, 1)),
        normal(1, length, states),
        normal(1, length, states),
    )


def our_scan(arrays, *, backward, weighted=True):
    """Return our scan, or it and its gradients.

    Args:
      arrays: what `scan_operands` draws.
      backward: whether gradients are wanted.
      weighted: whether the loss weighs each output by a number of its own, as layers
        behind a scan do, and is no plain sum.
    """
    arrays = [jnp.asarray(x) for x in arrays]
    if not backward:
        return jax_program(lambda *x: selective_scan(*x).y, *arrays)

    def loss(weights, *x):
        return jnp.sum(selective_scan(*x).y * weights)

    weights = jax.random.normal(jax.random.key(0), arrays[0].shape)
    gradients = jax.value_and_grad(loss, tuple(range(1, 6)))
    if weighted:
        return jax_program(gradients, weights, *arrays)
    return jax_program(lambda *x: gradients(jnp.ones(()), *x), *arrays)


def op_rows(slow):
    """Yield (row, programs) of the scan."""
    arrays = scan_operands(1024)
    yield (
        "scan forward, l 1024",
        {
            "jmamba": our_scan(arrays, backward=False),
            "torch token loop": torch_scan(arrays, parallel=False, backward=False),
            "mambapy": torch_scan(arrays, parallel=True, backward=False),
        },
    )
    loop = torch_scan(arrays, parallel=False, backward=True) if slow else None
    yield (
        "scan forward+backward, l 1024",
        {
            "jmamba": our_scan(arrays, backward=True),
            "torch token loop": loop,
            "mambapy": torch_scan(arrays, parallel=True, backward=True),
        },
    )
    for length in (1, 7, 1134):
        arrays = scan_operands(length)
        for backward in (False, True):
            name = "forward+backward" if backward else "forward"
            yield (
                f"scan {name}, l {length}",
                {
                    "jmamba": our_scan(arrays, backward=backward),
                    "mambapy": torch_scan(arrays, parallel=True, backward=backward),
                },
            )


def time_of_states(shapes, runs):
    """Return nanoseconds per (token, channel, state), forward and with gradients.

    Args:
      shapes: pairs of length and channels.
      runs: of each program.
    """
    found = []
    for length, channels in shapes:
        arrays = scan_operands(length, channels=channels)
        programs = {
            "forward": our_scan(arrays, backward=False),
            "gradients, weighted loss": our_scan(arrays, backward=True),
            "gradients, sum": our_scan(arrays, backward=True, weighted=False),
        }
        count = length * channels * arrays[2].shape[1]
        found.append(
            {
                "what": f"scan, l {length}, d {channels}",
                "unit": "ns per (token, channel, state)",
                **{
                    name: timing.median / count * 1e9
                    for name, timing in interleave(programs, runs).items()
                },
            }
        )
    return found
