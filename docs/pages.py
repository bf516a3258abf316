"""Pages of the site that are made of other files: mkdocs calls these functions."""

import ast
import re
from functools import cache
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TEXTS = {
    "index.md": "README.md",
    "changes.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
"""Pages, and the files in the root that they are."""

RECIPES = "jmamba.recipes."

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages of the reference and of the results."""
    lists = {
        "reference/": [
            *({face: f"reference/{face}.md"} for face in faces()),
            {"Command line": "reference/commands.md"},
        ],
        "results/": [
            f"results/{page.name}"
            for page in sorted((ROOT / "docs/results").glob("*.md"))
        ],
    }
    config.nav = _with_lists(config.nav, lists)
    return config


def _with_lists(entry, lists):
    """Return an entry of the navigation, lists in the place of their names."""
    if isinstance(entry, list):
        return [_with_lists(one, lists) for one in entry]
    if isinstance(entry, dict):
        return {title: _with_lists(one, lists) for title, one in entry.items()}
    return lists.get(entry, entry)


@event_priority(100)  # before the notebooks are looked for
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of other files."""
    for page, name in TEXTS.items():
        text = with_links_of_site((ROOT / name).read_text("utf-8"))
        files.append(File.generated(config, page, content=text))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        path = f"notebooks/{notebook.name}"
        places = str(ROOT), config.site_dir, config.use_directory_urls
        files.append(File(path, *places))
    for face in faces():
        path = f"reference/{face}.md"
        files.append(File.generated(config, path, content=reference(face)))
    text = commands()
    files.append(File.generated(config, "reference/commands.md", content=text))
    return files


def on_page_markdown(markdown: str, page, **_) -> str:
    """Turn links out of the documentation into plain names: it has no repository."""
    if page.file.src_uri in TEXTS:
        return markdown
    return with_links_of_site(markdown, ROOT / "docs" / page.file.src_uri)


def with_links_of_site(text: str, page: Path = README) -> str:
    """Return a page whose links stay inside of the site.

    Args:
      text: of the page, in Markdown.
      page: where it is, which links are relative to.
    """
    docs, own = ROOT / "docs", {name: made for made, name in TEXTS.items()}

    def turn(match: re.Match) -> str:
        mark, label, target, anchor = match.groups("")
        path = (page.parent / target).resolve()
        if page.parent == docs and target in TEXTS:
            return match[0]  # made here
        inside = path.relative_to(ROOT).as_posix()
        if path.is_file() and path.is_relative_to(docs):
            inside = path.relative_to(docs).as_posix()
        elif inside in own:
            inside = own[inside]
        elif not inside.endswith(".ipynb"):
            return label if label.startswith("`") else f"`{label}`"
        up = "../" * (len(page.relative_to(docs).parts) - 1) if page != README else ""
        return f"{mark}[{label}]({up}{inside}{anchor})"

    return LINK.sub(turn, text)


@cache
def faces() -> tuple[str, ...]:
    """Return the packages that hand on names, those of single recipes left out."""
    folders = (path.parent for path in sorted(ROOT.glob("jmamba/**/__init__.py")))
    packages = [".".join(folder.relative_to(ROOT).parts) for folder in folders]
    return tuple(
        one for one in packages if names_of(one) and not one.startswith(RECIPES)
    )


@cache
def names_of(face: str) -> list[tuple[str, str]]:
    """Return the module and the name of each thing that a package hands on."""
    tree = ast.parse(ROOT.joinpath(*face.split("."), "__init__.py").read_text())
    return [
        (node.module, alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if not _is_package(f"{node.module}.{alias.name}")
        and alias.name != "__version__"
    ]


def _is_package(name: str) -> bool:
    return ROOT.joinpath(*name.split("."), "__init__.py").is_file()


def reference(face: str) -> str:
    """Return the reference of a package: its docstring, and each public name."""
    tree = ast.parse(ROOT.joinpath(*face.split("."), "__init__.py").read_text())
    parts, told = [f"# {face}", ast.get_docstring(tree) or ""], told_before(face)
    for module, name in names_of(face):
        place, own = told.get((module, name)), f"{module}.{name}"
        parts.append(
            f"## {name}\n\nSee [{name}]({place}.md#{own})." if place else f"::: {own}"
        )
    return "\n\n".join(parts) + "\n"


def told_before(face: str) -> dict[tuple[str, str], str]:
    """Return the names of earlier pages of the reference, and which has each."""
    earlier = faces()[: faces().index(face)]
    return {what: one for one in reversed(earlier) for what in names_of(one)}


def commands() -> str:
    """Return what `--help` says of every command."""
    from typer.testing import CliRunner

    from jmamba.cli import LATER, app

    parts = ["# Command line"]
    for name in ("", *LATER):
        settings = {"TERM": "dumb", "COLUMNS": "100", "NO_COLOR": "1"}
        said = CliRunner().invoke(app, [*name.split(), "--help"], env=settings)
        parts += [f"## jmamba {name}".rstrip(), f"```text\n{said.output.strip()}\n```"]
    return "\n\n".join(parts) + "\n"
