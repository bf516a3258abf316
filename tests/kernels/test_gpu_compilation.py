"""The GPU kernels, compiled by the real GPU compiler on a machine without a GPU.

One process compiles (XLA reads where to leave its output when it starts); the tests
look at what it found.
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from gpu_compiler import why_no_gpu_compiler  # noqa: E402

WHY_NOT = why_no_gpu_compiler()
pytestmark = [
    pytest.mark.usefixtures("optimised_programs"),
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]

RUNS = {
    "A100, training": "--gpu sm_80 --dtype bfloat16",
    "L4, training": "--gpu sm_89 --dtype float32 --map scan --map cotangent",
    "H100, training": "--gpu sm_90 --dtype bfloat16",
    "A100, one long text": "--gpu sm_80 --dtype float32 --batch 1 --length 16384",
}
"""What is compiled, at the width of mamba-130m, as options of gpu_compile."""


@cache
def compile_run(run: str, folder: Path) -> list[dict]:
    """Return one row for each kernel."""
    out = folder / "out.json"
    options = ["--model", "mamba-130m", *RUNS[run].split(), "--json", str(out)]
    subprocess.run(
        [sys.executable, BENCHMARKS / "gpu_compile.py", *options],
        env={**os.environ, "JAX_PLATFORMS": "cpu"}, check=True, capture_output=True,
    )  # fmt: skip
    return json.loads(out.read_text())["results"]


@pytest.fixture(scope="module", params=RUNS)
def rows(request, tmp_path_factory):
    return compile_run(request.param, tmp_path_factory.mktemp("compiled"))


def test_kernels_compile_under_their_names(rows):
    names = {row["kernel"] for row in rows}
    assert names and all(name.startswith("selective_scan_") for name in names)
    assert [row for row in rows if not row["is_named"]] == []


def test_forward_does_not_spill(rows):
    assert [row for row in rows if row["map"] == "scan" and row["spill_bytes"]] == []


def test_cotangent_and_tangent_do_not_spill(rows):
    assert [row for row in rows if row["spill_bytes"]] == []


def test_nothing_holds_all_states(rows):
    for row in rows:
        all_states = 4 * row["batch"] * row["length"] * row["channels"] * row["states"]
        assert row["temp"] < all_states / 8, row


def test_sums_have_a_fixed_order(rows):
    assert [row for row in rows if row["atomics"]] == []
