"""The ledger of claims, and README beside it, say what tests and results hold."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from jmamba.recipes.registry import RECIPES

ROOT = Path(__file__).parents[2]
README, LEDGER = ROOT / "README.md", ROOT / "docs/claims.md"
EXPERIMENTS = ROOT / "docs/experiments.md"
VERDICTS = ("holds", "fails", "only a bound", "undecided here", "not tested")
COLUMNS = ["claim", "where", "what we ran", "what came out", "verdict", "command"]
NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*")


def tables(page: Path) -> list[list[list[str]]]:
    """Return the cells of the tables of a page, headings first."""
    blocks = re.findall(r"(?:^\|.*\n)+", page.read_text(), re.MULTILINE)
    found = []
    for block in blocks:
        rows = [[cell.strip() for cell in line.strip("|\n").split("|")]
                for line in block.splitlines()]  # fmt: skip
        found.append([rows[0], *rows[2:]])
    return found


def ledger() -> list[dict[str, str]]:
    """Return the rows of all claims."""
    claims = [table for table in tables(LEDGER) if table[0] == COLUMNS]
    return [
        dict(zip(COLUMNS, row, strict=True)) for table in claims for row in table[1:]
    ]


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)]+)\)", text)


def commands(row: dict[str, str]) -> list[str]:
    return re.findall(r"`([^`]+)`", row["command"])


@cache
def functions(path: str) -> set[str]:
    body = ast.parse((ROOT / path).read_text()).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef)}


@cache
def numbers_in(page: Path) -> set[str]:
    return set(NUMBER.findall(page.read_text()))


def numbers_of(text: str) -> set[str]:
    """Return the numbers that a text says, those in links and in code aside."""
    return set(NUMBER.findall(re.sub(r"\]\([^)]+\)|`[^`]+`", " ", text)))


ROWS = pytest.mark.parametrize("row", ledger(), ids=lambda row: row["claim"][:60])


def test_ledger_is_whole():
    papers = re.findall(r"arXiv (\d{4}\.\d{5})", LEDGER.read_text())
    assert {*papers} == {"2403.01590", "2410.03292", "2405.16504", "2406.07592",
                         "2502.15612", "2406.14528"}  # fmt: skip
    # no table with other columns hides a claim
    assert len([table for table in tables(LEDGER) if len(table[0]) > 4]) == 8
    assert {row["verdict"].split(":")[0] for row in ledger()} == {*VERDICTS}


@ROWS
def test_verdicts_have_what_they_rest_on(row):
    verdict, _, why = row["verdict"].partition(": ")
    if verdict == "not tested":
        assert row["command"] == row["what came out"] == "–"
        return
    found = commands(row)
    assert found and row["what came out"] != "–"
    for command in found:
        program, what = command.split(" ", 1)
        if program == "pytest":
            path, name = what.split("::")
            assert name in functions(path)
            assert verdict != "undecided here"
        else:
            name = command.removeprefix("jmamba reproduce ")
            assert name in RECIPES
            assert verdict in ("holds", "fails", "undecided here") and why
            assert links(row["what we ran"]) == [f"results/{name}.md"]


@ROWS
def test_numbers_of_the_ledger_are_those_of_results_and_tests(row):
    sources = [LEDGER.parent / link for link in links(row["what we ran"])]
    for command in commands(row):
        if command.startswith("pytest "):
            sources.append(ROOT / command.removeprefix("pytest ").split("::")[0])
    said = numbers_of(" ".join(row[name] for name in COLUMNS[2:5]))
    assert said <= {x for source in sources for x in numbers_in(source)}


def test_runs_of_the_ledger_are_all_recipes():
    (runs,) = [t for t in tables(LEDGER) if t[0][0] == "run"]
    assert {name for run, *_ in runs[1:] for name in links(run)} == {
        f"results/{name}.md" for name in RECIPES
    }
    for run, scale, _ in runs[1:]:
        (link,) = links(run)
        assert numbers_of(scale) <= numbers_in(LEDGER.parent / link)


def test_numbers_of_readme_are_those_of_results():
    (table,) = [t for t in tables(README) if t[0] == ["name", "what came out"]]
    assert {row[0].strip("`") for row in table[1:]} == {*RECIPES}
    for name, said in table[1:]:
        (result,) = [x for x in links(said) if "results/" in x]
        assert result == f"docs/results/{name.strip('`')}.md"
        assert numbers_of(said) <= numbers_in(ROOT / result)
    assert "docs/claims.md" in links(README.read_text())


SECTION = re.compile(r"^## ([\w-]+): .*\n((?:(?!## ).*\n?)*)", re.MULTILINE)


def test_numbers_of_experiments_are_those_of_results():
    """Bullets and verdicts quote results; how models were made stands apart."""
    sections = dict(SECTION.findall(EXPERIMENTS.read_text()))
    assert {*sections} == {*RECIPES}
    for name, text in sections.items():
        result = ROOT / f"docs/results/{name}.md"
        bullets = re.findall(r"^- .*(?:\n  .*)*", text, re.MULTILINE)
        assert bullets
        assert numbers_of(" ".join(bullets)) <= numbers_in(result)


@pytest.mark.parametrize("page", [LEDGER, README, EXPERIMENTS])
def test_linked_files_exist(page):
    for link in links(page.read_text()):
        if not link.startswith("http"):
            assert (page.parent / link.split("#")[0]).exists(), link
