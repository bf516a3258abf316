"""What users read imports from the faces of packages only."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/*.ipynb")]
)


def python_of(page: Path) -> str:
    """Return the Python code of a page or a notebook."""
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text())["cells"]
        parts = ["".join(one["source"]) for one in cells if one["cell_type"] == "code"]
    else:
        parts = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(parts).splitlines()
    return "\n".join(x for x in lines if not x.lstrip().startswith(("!", "%")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_import_from_faces(page):
    for node in ast.walk(ast.parse(python_of(page))):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        if node.module.split(".")[0] != "jmamba":
            continue
        face = ROOT.joinpath(*node.module.split("."), "__init__.py")
        assert face.is_file(), f"{node.module} is no face"
        handed = {
            alias.name
            for one in ast.walk(ast.parse(face.read_text()))
            if isinstance(one, ast.ImportFrom)
            for alias in one.names
        }
        for alias in node.names:
            inside = (face.parent / alias.name / "__init__.py").is_file()
            assert alias.name in handed or inside, f"{node.module} hands on no {alias}"


FACES = sorted(path for path in ROOT.glob("jmamba/**/__init__.py"))


@pytest.mark.parametrize("face", FACES, ids=lambda path: path.parent.name)
def test_faces_hand_on_what_is_there(face):
    for node in ast.parse(face.read_text()).body[1:]:
        assert isinstance(node, ast.ImportFrom), "a docstring, and what is handed on"
