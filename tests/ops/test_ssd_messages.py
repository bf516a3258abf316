"""What a user is told who calls `ssd` with something that does not fit."""

import jax.numpy as jnp
import pytest
from ssd_samples import make_ssd_inputs, run_ssd

from jmamba.ops import ssd

WRONG = {
    "u": (jnp.ones((2, 9, 6)), r"needs u of shape \(b, l, h, p\)"),
    "delta": (jnp.ones((2, 9, 3)), r"delta \(2, 9, 3\) should be \(b, l, h\)"),
    "A": (jnp.ones((2, 4)), r"h=2, p=3, n=4, g=1 \(from u and B\), A \(2, 4\) should"),
    "B": (jnp.ones((2, 9)), r"B of shape \(b, l, n\) or .* B \(2, 9\)"),
    "C": (jnp.ones((2, 9, 5)), r"C \(2, 9, 1, 5\) should be \(b, l, n\) or"),
    "initial_state": (jnp.ones((2, 2, 4, 3)), r"initial_state .* \(b, h, p, n\)"),
    "segment_ids": (jnp.ones((9,), int), r"segment_ids \(9,\) should be \(b, l\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes_are_named(name):
    value, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        run_ssd(make_ssd_inputs()._replace(**{name: value}))


def test_mistakes_are_said():
    x = make_ssd_inputs()
    with pytest.raises(TypeError, match=r"ssd: u is int32.*u.astype\(jnp.float32\)"):
        run_ssd(x._replace(u=x.u.astype(int)))
    gates = jnp.ones((2, 9, 3, 4))
    with pytest.raises(ValueError, match="3 groups of B and C do not divide h=2 heads"):
        run_ssd(x._replace(B=gates, C=gates))
    with pytest.raises(ValueError, match=r"D \(3,\) should be \(h,\) or \(h, p\)"):
        ssd(*x[:5], D=jnp.ones(3))
    with pytest.raises(ValueError, match=r"delta_limit=\(1, 0\) is no interval"):
        ssd(*x[:5], delta_limit=(1, 0))
    with pytest.raises(ValueError, match="l=0 is an empty axis"):
        empty = {k: getattr(x, k)[:, :0] for k in ("u", "delta", "B", "C")}
        run_ssd(x._replace(**empty))
    with pytest.raises(ValueError, match="Unknown implementation 'fast'. Give None or"):
        run_ssd(x, "fast")
    for name in ("pallas_tpu", "pallas_triton", "pallas_gpu", "xla_loop"):
        with pytest.raises(NotImplementedError, match=f"{name} .* ssd does not have"):
            run_ssd(x, name)
