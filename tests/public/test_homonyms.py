"""Each public name has one meaning in the whole repository."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROTOCOLS = {"run"}
"""Functions that several modules have in common: every recipe has `run`."""

SHARED = {
    # the same function of two back ends, for which kernels cannot import a common one
    "silu",
    # delta of the theory's system, and of a kernel's registers
    "step_sizes",
}


def definitions() -> dict[str, list[str]]:
    """Return name -> files, of public functions and classes at the top of a module."""
    found = defaultdict(list)
    for source in (ROOT / "jmamba", ROOT / "kernels" / "jmamba_kernels"):
        for path in source.rglob("*.py"):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    if not node.name.startswith("_"):
                        found[node.name].append(str(path.relative_to(ROOT)))
    return found


def test_no_two_public_functions_or_classes_share_a_name():
    doubles = {name: files for name, files in definitions().items() if len(files) > 1}
    assert not doubles.keys() - PROTOCOLS - SHARED, doubles


def test_shared_names_are_still_shared():
    found = definitions()
    assert all(len(found[name]) > 1 for name in PROTOCOLS | SHARED)
