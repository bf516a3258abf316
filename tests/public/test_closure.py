"""How many files a module reaches: an analysis pulls in no readers of files."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LIMITS = {
    "jmamba.attention.matrices.hidden_attention": 15,
    "jmamba.attention.relevance.lrp": 27,
    "jmamba.commands.explain_text": 165,  # all explanations, checked files, any mesh
}
"""Module -> most files that its imports reach, itself included."""


@cache
def sources() -> dict[str, Path]:
    found = {}
    for root in (ROOT, ROOT / "kernels"):
        for package in ("jmamba", "jmamba_kernels"):
            for path in (root / package).rglob("*.py"):
                name = ".".join(path.relative_to(root).with_suffix("").parts)
                found[name.removesuffix(".__init__")] = path
    return found


def imported(module: str) -> Iterator[str]:
    """Yield the modules that a file imports, deferred imports among them.

    Through the face of a package only the names that are asked for are followed.
    """
    for node in ast.walk(ast.parse(sources()[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in sources())
        if not isinstance(node, ast.ImportFrom) or node.module not in sources():
            continue
        names = {alias.name for alias in node.names}
        inside = {name for name in names if f"{node.module}.{name}" in sources()}
        yield from (f"{node.module}.{name}" for name in inside)
        face = sources()[node.module]
        if face.name != "__init__.py":
            yield node.module
            continue
        for handed in ast.walk(ast.parse(face.read_text())):
            if isinstance(handed, ast.ImportFrom) and handed.module in sources():
                if (names - inside) & {alias.name for alias in handed.names}:
                    yield handed.module


def closure(module: str) -> set[str]:
    seen, left = {module}, [module]
    while left:
        new = set(imported(left.pop())) - seen
        seen |= new
        left += new
    return seen


@pytest.mark.parametrize("module", LIMITS)
def test_closures_stay_small(module):
    found = closure(module)
    assert len(found) <= LIMITS[module], sorted(found)


def test_analyses_reach_no_readers_of_files():
    found = closure("jmamba.attention.relevance.methods")
    assert not [name for name in found if name.startswith("jmamba.files")]
