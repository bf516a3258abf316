"""Plans count what programs take: bytes, operations and exchanges of each device."""

import importlib.util
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from typer.testing import CliRunner

from jmamba import Mamba2Config, MambaConfig, Sharding, VimConfig
from jmamba.cli import app
from jmamba.layers.letters import path_of
from jmamba.planning import plan as plan_module
from jmamba.planning.advice import advise
from jmamba.planning.exchanges import axes_of, exchanges_in
from jmamba.planning.operations import count_work
from jmamba.planning.plan import make_plan, received
from jmamba.planning.programs import Workload, make_call
from jmamba.planning.topologies import GIB, open_topology
from jmamba.report.plan import draw_plan, save_plan

MESH = {"x": 2, "y": 4}
CONFIG = MambaConfig(vocab_size=24, d_model=16, num_layers=2, d_state=4)
AXES: dict[str, Any] = {"fsdp": 2, "tensor": 2, "data": 2}


# Exchanges ----------------------------------------------------------------------------


def on_mesh(run, spec, out_spec):
    """Return what devices exchange to bring an array from one place to another."""
    types = (AxisType.Auto,) * 2
    mesh = jax.make_mesh(tuple(MESH.values()), tuple(MESH), axis_types=types)
    x = jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=NamedSharding(mesh, spec))
    out = NamedSharding(mesh, out_spec)
    text = jax.jit(run, out_shardings=out).lower(x).compile().as_text()
    return exchanges_in(text or "", MESH)


@pytest.mark.parametrize("axis", MESH)
def test_gather_is_along_the_axis_that_splits(axis):
    (found,) = on_mesh(lambda x: x + 1, P(axis), P())
    assert (found.kind, found.axes, found.times) == ("all-gather", {axis}, 1)
    assert found.num_bytes == 8 * 8 * 4
    others = (MESH[axis] - 1) / MESH[axis]
    assert received(found, MESH[axis]) == others * 8 * 8 * 4


def test_sum_over_devices_counts_twice():
    (found,) = on_mesh(lambda x: jnp.sum(x, axis=0), P("y"), P())
    assert (found.kind, found.axes) == ("all-reduce", {"y"})
    assert received(found, 4) == 2 * 3 / 4 * 8 * 4


def test_exchange_in_a_loop_counts_as_often_as_it_runs():
    def run(x):
        def step(carry, _):
            return jnp.sin(carry @ x), None

        return jax.lax.scan(step, jnp.ones((8, 8)), length=5)[0]

    found = on_mesh(run, P("x"), P())
    assert {(x.times, x.is_in_loop) for x in found if x.is_in_loop} == {(5, True)}


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("{{0,4},{1,5},{2,6},{3,7}}", {"x"}),
        ("{{0,1,2,3},{4,5,6,7}}", {"y"}),
        ("[4,2]<=[2,4]T(1,0)", {"x"}),
        ("[2,4]<=[8]", {"y"}),
        ("mesh['a'=2,'b'=4] {'b'}", {"y"}),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", {"x"}),
        ("mesh['a'=8] {'a':(1)2}", {"x"}),
        ("mesh['a'=2,'b'=4] {'a','b'}", {"x", "y"}),
        ("{}", {"x", "y"}),
    ],
)
def test_groups_are_read_in_every_form(groups, axes):
    line = f"  %a = f32[4]{{0}} all-reduce(%x), replica_groups={groups}, to_apply=%add"
    (found,) = exchanges_in(f"ENTRY %main (x: f32[4]) -> f32[4] {{\n{line}\n}}", MESH)
    assert found.axes == axes


def test_axes_of_half_an_axis_are_that_axis():
    assert axes_of([[0, 1], [2, 3], [4, 5], [6, 7]], MESH) == {"y"}


# Operations ---------------------------------------------------------------------------


def test_products_are_those_of_the_matrices():
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert count_work(jax.make_jaxpr(jnp.matmul)(a, b)).products == 2 * 3 * 4 * 5
    gradient = jax.grad(lambda a, b: jnp.sum((a @ b) ** 2), argnums=(0, 1))
    assert count_work(jax.make_jaxpr(gradient)(a, b)).products == 3 * 2 * 3 * 4 * 5
    image, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((2, 2, 3, 5))
    convolve = jax.make_jaxpr(
        lambda x, w: jax.lax.conv_general_dilated(
            x, w, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )
    assert count_work(convolve(image, kernel)).products == 2 * 4 * 4 * 5 * 2 * 2 * 3


def test_work_is_that_of_all_devices():
    """The same on one device and on eight, where ops run in parts of shard_map."""

    def count(sharding, length=8):
        call = make_call("prefill", Workload(CONFIG, sharding, 8, length, "float32"))
        return count_work(call.run.trace(*call.arguments.values()).jaxpr)

    one = count(Sharding(devices=jax.devices()[:1]))
    assert count(Sharding(**AXES)).products == one.products
    m, d, n, r = 16, 32, 4, CONFIG.dt_rank
    layer = m * 2 * d + d * (r + 2 * n) + r * d + d * m
    assert one.products == 2 * 8 * (8 * 2 * layer + 24 * m)


# Plans --------------------------------------------------------------------------------

CALLS = [
    ("train", CONFIG),
    ("decode", CONFIG),
    ("attention", CONFIG),
    ("prefill", Mamba2Config(vocab_size=24, d_model=16, num_layers=2, d_state=4,
                             head_width=8)),
    ("train", VimConfig(image_size=8, patch_size=4, d_model=16, num_layers=2,
                        d_state=4, num_classes=4)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "config"), CALLS)
def test_plan_is_made_of_every_kind(kind, config):
    task = Workload(config, Sharding(**AXES), 8, 8, "float32")
    plan = make_plan(kind, task, open_topology("cpu:8"))
    assert plan.total == sum(plan.memory.values()) and plan.memory["parameters"] > 0
    assert plan.products > 0 and plan.capacity is None and not plan.advice
    assert plan.least_seconds is None
    if kind != "decode":  # one step is no loop
        assert plan.kernels
    if kind == "train":  # two moments, of the parameters' own size, and counts
        moments = plan.memory["optimizer"] - 2 * plan.memory["parameters"]
        assert 0 <= moments <= 64
        axes = "+".join(x.axes for x in plan.traffic or ())
        assert "fsdp" in axes and "data" in axes


def test_kernels_are_named_where_xla_writes_no_text(monkeypatch):
    task = Workload(CONFIG, Sharding(devices=jax.devices()[:1]), 1, 8, "float32")
    written = make_plan("prefill", task, open_topology("cpu:1"))
    monkeypatch.setattr(plan_module, "_text_of", lambda compiled: None)
    found = make_plan("prefill", task, open_topology("cpu:1"))
    assert found.traffic is None
    assert found.kernels == written.kernels != ()


def test_arguments_lie_as_the_rules_say():
    call = make_call("decode", Workload(CONFIG, Sharding(fsdp=4, tensor=2), 8, 8))
    parts = {
        path_of(keys): x.sharding.shard_shape(x.shape)
        for keys, x in jax.tree.leaves_with_path(call.arguments["parameters"])
    }
    assert parts["embedding",] == (24 // 2, 16 // 4)
    assert parts["layers", "mixer", "in_proj", "kernel"] == (2, 16 // 4, 64 // 2)
    assert parts["layers", "mixer", "A_log"] == (2, 32 // 2, 4)
    cache = call.arguments["cache"]
    assert cache.ssm_state.sharding.shard_shape((2, 8, 32, 4)) == (2, 2, 16, 4)


@pytest.mark.parametrize(
    ("memory", "says"),
    [
        ({"parameters": 40 * GIB, "temporary": 1}, "parameters alone take .*fsdp=8"),
        ({"parameters": GIB, "temporary": 20 * GIB}, r"5\.0 GiB more .*--remat full"),
        ({"parameters": GIB}, "^$"),
    ],
)
def test_advice_names_what_does_not_fit(memory, says):
    task = Workload(CONFIG, Sharding(**AXES), 8, 8, remat=False)
    found = advise(memory, 16 * GIB, "train", task)
    assert re.search(says, found), found


# The command --------------------------------------------------------------------------


def command(*args):
    return CliRunner().invoke(app, ["plan", *args])


@pytest.fixture
def folder(tmp_path):
    raw = {"model_type": "mamba", "vocab_size": 24, "hidden_size": 16, "state_size": 4,
           "num_hidden_layers": 2}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(raw))
    return tmp_path


def test_command_prints_and_writes_a_plan(folder):
    out = folder / "plan.json"
    asked = ("--model", str(folder), "--topology", "cpu:8", "--mesh",
             "fsdp=2,tensor=2,data=2", "--batch", "8", "--length", "8", "--dtype",
             "float32", "--program", "prefill", "--json", str(out))  # fmt: skip
    result = command(*asked)
    assert result.exit_code == 0, result.output
    assert "Memory of each device" in result.stdout
    plan = json.loads(out.read_text())
    assert plan["mesh"] == {"data": 2, "fsdp": 2, "sequence": 1, "tensor": 2}
    assert plan["total"] == sum(plan["memory"].values())


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--model", "9b", "--topology", "cpu:8"), "Unknown configuration 'mamba-9b'"),
        (("--model", "2.8b", "--topology", "v9:2x2"), "is no topology"),
        (("--model", "2.8b", "--topology", "cpu:8", "--mesh", "fsdp=3"), "mesh of 3"),
        (("--model", "2.8b", "--topology", "cpu:8", "--batch", "3"), "batch of 3 rows"),
        (("--model", "vim-tiny", "--topology", "cpu:8", "--program", "decode"),
         "decode is of language models"),
        (("--model", "2.8b", "--topology", "cpu:8", "--figure", "a.txt"),
         "--figure a.txt: give a name that ends with .png, .svg, .pdf"),
    ],
)  # fmt: skip
def test_command_refuses_what_cannot_be(args, says):
    result = command(*args)
    assert result.exit_code == 2, result.output
    assert says in " ".join(result.stderr.split())


def test_figure_has_the_bytes_and_bounds_of_a_plan(tmp_path):
    data = {
        "program": "train", "model": "m", "topology": "v5e:2x2", "devices": 4,
        "mesh": {"fsdp": 4}, "batch": 8, "length": 16, "capacity": 16 * GIB,
        "memory": {"parameters": 2 * GIB, "temporary": 15 * GIB},
        "bounds": {"products": 0.25, "memory": 0.125}, "advice": "halve the batch",
    }  # fmt: skip
    axes: list[Any] = draw_plan(data).axes
    memory, bounds = axes
    bars = [bar.get_width() for bar in memory.containers for bar in bar]
    assert bars == [2, 15] and memory.get_title(loc="left").endswith("too much")
    assert memory.lines[0].get_xdata()[0] == 16  # the device's memory
    assert [bar.get_width() for bar in bounds.patches] == [250, 125]
    save_plan(data | {"capacity": None, "bounds": {}}, tmp_path / "plan.svg")
    assert "memory of each device, 17 GiB" in (tmp_path / "plan.svg").read_text()


def test_topology_needs_its_compiler(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"libtpu, which is not installed.*tpu"):
        open_topology("v5e:2x2")
