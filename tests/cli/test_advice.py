"""Messages advise only options that the commands have which may show them."""

import ast
import importlib
import re
from pathlib import Path

import pytest
import typer
import typer.main

from jmamba.cli import LATER

ROOT = Path(__file__).parents[2]

SHOWN_BY = {
    "jmamba/checkpoints": {"convert"},
    "jmamba/files": {"convert"},
    "jmamba/interventions": {"lens", "tune"},
    "jmamba/models": {"convert"},
    "jmamba/planning": {"plan"},
    "jmamba/recipes": {"reproduce"},
    "jmamba/report/compare": {"explain"},
    "jmamba/report/folder.py": {"explain", "dynamics", "lens", "patch"},
    "jmamba/report/lens": {"lens"},
    "jmamba/report/patch": {"patch"},
    "jmamba/report/text": {"explain"},
    "jmamba/training/documents.py": {"tokenize"},
    "jmamba/training": {"train"},
}
"""File or folder -> commands that show its messages."""

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*\w")
COMMAND = re.compile(r"jmamba (\w+)")
OTHERS = re.compile(r"(pip|iconv|hf|git|sha256sum) [^.,]*")
"""Commands of other programs, with their own options."""


def options_of() -> dict[str, set[str]]:
    """Return command -> its options."""
    found = {}
    for name, (target, _) in LATER.items():
        module, function = target.split(":")
        app = typer.Typer(add_completion=False)
        app.command(name)(getattr(importlib.import_module(module), function))
        parameters = typer.main.get_command(app).params
        found[name] = {o for p in parameters for o in (*p.opts, *p.secondary_opts)}
    return found


def texts_of(function: ast.AST):
    """Yield the texts of a function, values in them as braces, docstrings left out."""
    documented = {
        id(node.body[0].value)
        for node in ast.walk(function)
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    inside = set()
    for node in ast.walk(function):
        if id(node) in documented or id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = [
                v.value if isinstance(v, ast.Constant) else "{}" for v in node.values
            ]
            inside |= {id(part) for part in ast.walk(node)}
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def callers(name: str) -> set[str]:
    """Return the commands whose modules, or those they import, use a function."""
    users = {
        path.stem
        for path in ROOT.glob("jmamba/commands/*.py")
        if re.search(rf"import .*\b{name}\b", path.read_text())
    }
    aliases = {"explain_text": "explain", "explain_image": "explain"}
    users = {aliases.get(user, user) for user in users}
    if "options" in users:
        users |= callers("load_text_model") | {"generate", "dynamics"}
    return users & set(LATER)


def callers_within(path: Path, function: str) -> set[str]:
    """Return the commands that use a function, or those of its file that use it."""
    users = callers(function)
    for other in ast.parse(path.read_text()).body if not users else ():
        name = getattr(other, "name", function)
        if name != function and re.search(rf"\b{function}\b", ast.unparse(other)):
            users |= callers_within(path, name)
    return users


def commands_for(path: Path, function: str) -> set[str]:
    """Return the commands that show the messages of a function."""
    place = str(path.relative_to(ROOT))
    for prefix, commands in SHOWN_BY.items():
        if place == prefix or place.startswith(f"{prefix}/"):
            return commands
    if path.parent.name == "commands":
        own = {"explain_text": "explain", "explain_image": "explain",
               "explain_two": "explain",
               "train_run": "train", "step_reports": "train",
               "corpora": "train", "best_model": "train",
               "processes": "train"}  # fmt: skip
        name = own.get(path.stem, path.stem)
        return {name} if name in LATER else callers_within(path, function)
    return set()


def advice():
    """Yield (place, option, commands) of every option that a message names."""
    for path in sorted(ROOT.glob("jmamba/**/*.py")):
        if path.name in ("cli.py", "mistakes.py"):  # they speak of any command
            continue
        for function in ast.parse(path.read_text()).body:
            name = getattr(function, "name", "")
            if not name and path.parent.name == "commands":
                continue  # options that several commands declare alike
            is_command = name.endswith("_command")
            for text in texts_of(function):
                text = OTHERS.sub("", text)
                if not OPTION.search(text) or text.strip() == "--":
                    continue
                if is_command and text in {f for v in OPTIONS.values() for f in v}:
                    continue  # the declaration of an option
                named = COMMAND.findall(text)
                commands = {c for c in named if c in LATER} or commands_for(path, name)
                for option in OPTION.findall(text):
                    place = f"{path.relative_to(ROOT)}:{name}"
                    yield place, option, tuple(sorted(commands))


OPTIONS = options_of()
ADVICE = sorted(set(advice()))


@pytest.mark.parametrize("place, option, commands", ADVICE)
def test_advised_option_is_there(place, option, commands):
    assert commands, f"{place} advises {option}: say in SHOWN_BY who shows it"
    for command in commands:
        assert option in OPTIONS[command], f"jmamba {command} has no {option}"


def test_messages_are_found():
    places = {place.split(":")[0] for place, _, _ in ADVICE}
    wanted = {"files/adapters", "files/folders", "checkpoints/verification",
              "report/folder", "report/text/cost", "commands/reading",
              "commands/options", "commands/train_run",
              "recipes/workbench"}  # fmt: skip
    assert {f"jmamba/{place}.py" for place in wanted} <= places
    assert (
        "jmamba/files/adapters.py:explain_adapter",
        "--base",
        ("convert",),
    ) in ADVICE
