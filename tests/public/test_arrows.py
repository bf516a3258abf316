"""Imports point one way, and heavy libraries wait until they are needed."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    [*ROOT.glob("jmamba/**/*.py"), *ROOT.glob("kernels/jmamba_kernels/**/*.py")]
)

LAYERS = [
    {"jmamba_kernels"},
    {"jmamba.types", "jmamba.requests", "jmamba.progress", "jmamba.version"},
    {"jmamba.ops", "jmamba.files", "jmamba.recurrences"},
    {"jmamba.layers"},
    {"jmamba.refinements", "jmamba.tracing", "jmamba.attention"},
    {"jmamba.models"},
    {"jmamba.generation", "jmamba.dynamics"},
    {"jmamba.surgery"},
    {"jmamba.evaluation", "jmamba.training", "jmamba.embedded", "jmamba.checkpoints"},
    {"jmamba"},  # its __init__, which hands on
    {"jmamba.planning"},
    {"jmamba.figures"},
    {"jmamba.interventions"},
    {"jmamba.analysis"},
    {"jmamba.report"},
    {"jmamba.recipes"},
    {"jmamba.commands"},
    {"jmamba.cli"},
    {"jmamba.__main__"},
]
"""A part imports from earlier layers and itself, without exceptions."""

ROOMS = [
    ("jmamba.attention.matrices", "jmamba.attention.relevance"),
    ("jmamba.dynamics.theory", "jmamba.dynamics.trained"),
]
"""Inside of a part, the second room builds on the first."""

HEAVY = {"torch", "transformers", "matplotlib", "typer", "rich"}
"""Never imported at module level, except where ALLOWED."""

ALLOWED = {
    "jmamba.figures": {"matplotlib"},
    "jmamba.report": {"matplotlib"},
    "jmamba.interventions.figures": {"matplotlib"},
    "jmamba.recipes": {"matplotlib"},
    "jmamba.commands": {"typer", "rich"},
    "jmamba.cli": {"typer", "rich"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] == "kernels" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """Return the part of the house a module belongs to; "" for one outside."""
    names = module.split(".")
    if names[0] not in ("jmamba", "jmamba_kernels"):
        return ""
    return names[0] if names[0] == "jmamba_kernels" else ".".join(names[:2])


def layer_of(part: str) -> int | None:
    return next((i for i, parts in enumerate(LAYERS) if part in parts), None)


def imports(tree: ast.AST, *, module_level: bool) -> Iterator[tuple[str, list[str]]]:
    """Yield (module, names imported from it) of a file's import statements.

    Blocks of an `if TYPE_CHECKING` do not count: nothing runs them.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports in full"
            yield node.module or "", [alias.name for alias in node.names]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif not module_level or not isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef
        ):
            yield from imports(node, module_level=module_level)


def targets(tree: ast.AST, *, module_level: bool):
    """Yield the parts of the house a file imports."""
    for module, names in imports(tree, module_level=module_level):
        if module == "jmamba":  # from jmamba import ops
            for name in names or [None]:
                part = f"jmamba.{name}"
                yield part if layer_of(part) is not None else "jmamba"
        elif part_of(module):
            yield part_of(module)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_one_way(path):
    part = part_of(module_name(path))
    layer = layer_of(part)
    assert layer is not None, f"{part} has no place in LAYERS: give it one"
    tree = ast.parse(path.read_text())
    for target in {*targets(tree, module_level=False)}:
        wanted = layer_of(target)
        assert wanted is not None, f"{part} imports {target}, which has no layer"
        assert wanted < layer or target == part, f"{part} must not import {target}"


@pytest.mark.parametrize(("first", "second"), ROOMS)
def test_rooms_build_on_each_other_one_way(first, second):
    inside = [path for path in SOURCES if module_name(path).startswith(f"{first}.")]
    assert inside
    for path in inside:
        for target, _ in imports(ast.parse(path.read_text()), module_level=False):
            assert not target.startswith(second), f"{module_name(path)}: {target}"


@pytest.mark.parametrize("part", sorted(set().union(*LAYERS)))
def test_layers_name_parts_that_may_exist(part):
    known = {module_name(path) for path in SOURCES}
    assert any(name == part or name.startswith(f"{part}.") for name in known)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_heavy_libraries_are_not_imported_at_module_level(path):
    module = module_name(path)
    allowed = ALLOWED.get(module, ALLOWED.get(part_of(module), set()))
    for target, _ in imports(ast.parse(path.read_text()), module_level=True):
        assert target.split(".")[0] not in HEAVY - allowed, f"{module}: {target}"


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if "jmamba_kernels" in p.parts], ids=module_name
)
def test_kernels_import_jax_only(path):
    known = {"jax", "numpy", "jaxtyping", "jmamba_kernels", *sys.stdlib_module_names}
    for target, _ in imports(ast.parse(path.read_text()), module_level=False):
        assert target.split(".")[0] in known, target


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p.name == "__init__.py"], ids=module_name
)
def test_init_files_hold_reexports_only(path):
    docstring, *rest = ast.parse(path.read_text()).body
    assert isinstance(docstring, ast.Expr), "say in one line what the package is"
    for node in rest:
        assert isinstance(node, ast.ImportFrom), ast.unparse(node)
        for alias in node.names:
            assert alias.asname == alias.name, f"write {alias.name} as {alias.name}"
