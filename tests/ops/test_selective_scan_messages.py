"""What a user is told who calls the op with something that does not fit."""

import jax
import jax.numpy as jnp
import pytest
from helpers import OPTIONS, make_inputs, run_scan

from jmamba.ops import IMPLEMENTATIONS, selective_scan, selective_state_update


def changed(**changes):
    """Return good operands with some exchanged; b=2, l=9, d=5, n=3."""
    return make_inputs(options=OPTIONS)._replace(**changes)


WRONG_SHAPES = {
    "u": (jnp.ones((2, 8, 5)), r"delta \(2, 9, 5\) should be \(b, l, d\)"),
    "delta": (jnp.ones((2, 9, 4)), r"delta \(2, 9, 4\) should be \(b, l, d\)"),
    "A": (jnp.ones((4, 3)), r"A \(4, 3\) should be \(d, n\)"),
    "B": (jnp.ones((2, 9, 4)), r"B \(2, 9, 1, 4\) should be \(b, l, n\) or"),
    "C": (jnp.ones((9, 3)), r"C \(9, 3\) should be \(b, l, n\) or"),
    "D": (jnp.ones((5, 1)), r"D \(5, 1\) should be \(d,\)"),
    "z": (jnp.ones((2, 5, 9)), r"z \(2, 5, 9\) should be \(b, l, d\)"),
    "delta_bias": (jnp.ones(3), r"delta_bias \(3,\) should be \(d,\)"),
    "initial_state": (
        jnp.ones((2, 3, 5)),
        r"initial_state \(2, 3, 5\) should be \(b, d, n\)",
    ),
    "segment_ids": (jnp.ones((9,), int), r"segment_ids \(9,\) should be \(b, l\)"),
}


@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_selective_scan_names_the_operand_of_wrong_shape(name):
    value, message = WRONG_SHAPES[name]
    with pytest.raises(ValueError, match=message):
        run_scan(changed(**{name: value}), None)


def test_selective_scan_lists_all_wrong_shapes_at_once():
    inputs = changed(D=jnp.ones(4), z=jnp.ones((2, 9, 6)), delta=jnp.ones((1, 9, 5)))
    message = r"b=2, l=9, d=5 \(from u\) and n=3 \(from A\), delta .*; D .*; z .*order"
    with pytest.raises(ValueError, match=message):
        run_scan(inputs, None)


@pytest.mark.parametrize(
    "changes", [{"u": jnp.ones((9, 5))}, {"A": jnp.ones(5)}, {"u": jnp.float32(1)}]
)
def test_selective_scan_needs_axes(changes):
    with pytest.raises(
        ValueError, match=r"needs u of shape \(b, l, d\) and A of shape"
    ):
        run_scan(changed(**changes), None)


@pytest.mark.parametrize("name", ["u", "A", "B", "D", "initial_state"])
@pytest.mark.parametrize("dtype", ["int32", "bool"])
def test_selective_scan_refuses_what_is_not_real(name, dtype):
    value = getattr(make_inputs(options=OPTIONS), name).astype(dtype)
    message = rf"{name} is {dtype}, but must be real floating .*{name}\.astype\(jnp.fl"
    with pytest.raises(TypeError, match=message):
        run_scan(changed(**{name: value}), None)


@pytest.mark.parametrize(
    ("name", "advice"),
    [("A", "drop the rotation"), ("C", r"jnp.imag\(C\)"), ("u", "If that is zero")],
)
def test_selective_scan_never_advises_to_drop_imaginary_parts(name, advice):
    value = getattr(make_inputs(options=OPTIONS), name).astype("complex64")
    message = rf"{name} is complex64, but must be real floating point\. .*{advice}"
    with pytest.raises(TypeError, match=message) as raised:
        run_scan(changed(**{name: value}), None)
    assert "astype" not in str(raised.value)


def test_selective_scan_refuses_segments_that_are_not_integers():
    message = r"segment_ids is float32, but must be integers.*astype\(jnp.int32\)"
    with pytest.raises(TypeError, match=message):
        run_scan(changed(segment_ids=jnp.ones((2, 9))), None)


@pytest.mark.parametrize("groups", [0, 2])
def test_selective_scan_needs_groups_that_divide_channels(groups):
    gates = jnp.ones((2, 9, groups, 3))
    message = rf"{groups} groups of B and C do not divide d=5 channels.*divisor of d"
    with pytest.raises(ValueError, match=message):
        run_scan(changed(B=gates, C=gates), None)


@pytest.mark.parametrize("implementation", [None, *IMPLEMENTATIONS])
@pytest.mark.parametrize("empty", "bldn")
def test_selective_scan_refuses_an_empty_axis(empty, implementation):
    b, l, d, n = (0 if axis == empty else 2 for axis in "bldn")  # noqa: E741
    u, gates = jnp.ones((b, l, d)), jnp.ones((b, l, n))
    with pytest.raises(ValueError, match=f"scan: {empty}=0 is an empty axis; give"):
        selective_scan(u, u, -jnp.ones((d, n)), gates, gates,
                       implementation=implementation)  # fmt: skip


@pytest.mark.parametrize("empty", "bdn")
def test_selective_state_update_refuses_an_empty_axis(empty):
    b, d, n = (0 if axis == empty else 2 for axis in "bdn")
    u, gates = jnp.ones((b, d)), jnp.ones((b, n))
    with pytest.raises(ValueError, match=f"scan: {empty}=0 is an empty axis; give"):
        selective_state_update(jnp.ones((b, d, n)), u, u, -jnp.ones((d, n)), gates,
                               gates)  # fmt: skip


def test_vmap_over_an_empty_axis_is_refused():
    inputs = make_inputs()
    with pytest.raises(ValueError, match="jax.vmap: the batch axis=0 is an empty axis"):
        jax.vmap(lambda u: run_scan(inputs._replace(u=u), None))(
            jnp.ones((0, *inputs.u.shape))
        )


@pytest.mark.parametrize("implementation", ["pallas", "", "XLA"])
def test_selective_scan_lists_implementations(implementation):
    message = (
        r"Unknown implementation .*None .*one of pallas_gpu, .*xla.*or a TpuTiling"
    )
    with pytest.raises(ValueError, match=message):
        run_scan(changed(), implementation)


def test_selective_scan_takes_xla_as_a_name():
    inputs = make_inputs()
    assert jnp.array_equal(run_scan(inputs, "xla").y, run_scan(inputs, "xla_loop").y)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("B", 1.0, r"B \(\) should be \(b, l, n\)"),
        ("delta", [[1.0]], r"delta \(1, 1\) should be \(b, l, d\)"),
    ],
)
def test_selective_scan_reads_what_is_no_array(name, value, message):
    with pytest.raises(ValueError, match=message):
        run_scan(changed(**{name: value}), None)


def test_state_update_needs_shapes_that_fit():
    state, u, gate = jnp.ones((2, 5, 3)), jnp.ones((2, 5)), jnp.ones((2, 3))
    A = -jnp.ones((5, 3))
    with pytest.raises(ValueError, match=r"A of shape \(d, n\)"):
        selective_state_update(state, u, u, A[0], gate, gate)
    with pytest.raises(ValueError, match=r"initial_state .* should be \(b, d, n\)"):
        selective_state_update(state[:, :4], u, u, A, gate, gate)
    with pytest.raises(TypeError, match="delta is int32"):
        selective_state_update(state, u, u.astype(int), A, gate, gate)


def test_selective_scan_refuses_gates_of_different_groups():
    inputs = changed(C=jnp.ones((2, 9, 5, 3)))
    with pytest.raises(ValueError, match=r"C \(2, 9, 5, 3\) should be"):
        selective_scan(*inputs[:5])
