"""The folder of an experiment: what is done stays done, results become tables."""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from jmamba.files.errors import FileError
from jmamba.files.exchange import is_hidden, write_file
from jmamba.files.folders import check_writable
from jmamba.files.untrusted import as_path, check_regular, reading
from jmamba.report.environment import environment
from jmamba.training.config import TrainConfig
from jmamba.training.loop import fit
from jmamba.training.metrics import METRICS, MetricsLog, read_metrics

RECIPE, RESULTS = "recipe.json", "results.md"

Show = Callable[[str, int, int], None]
"""Called as show(stage, done, total)."""


def _ignore(stage: str, done: int, total: int) -> None:
    """Show nothing."""


class Workbench:
    """Keeps what an experiment has done, so that it can go on after an interruption.

    Args:
      directory: where everything is kept.
      name: the recipe's name.
      config: its configuration, a dataclass; a folder is of one configuration only.
      data: folder with the data sets, None if there is none.
      show: told how far each stage is.
      command: the command that was typed, for the results.

    Raises:
      ValueError: the directory holds results of another recipe or configuration, or
        files that are no recipe's.

    Examples:
      >>> import tempfile
      >>> config = TrainConfig(steps=9, batch=1, warmup=1)
      >>> bench = Workbench(tempfile.mkdtemp(), name="demo", config=config)
      >>> bench.once("sum", lambda: 1 + 1), bench.once("sum", lambda: 1 / 0)
      (2, 2)
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        name: str,
        config: Any,
        data: str | os.PathLike | None = None,
        show: Show = _ignore,
        command: str = "",
    ):
        self.folder, self.name, self.show = as_path(directory), name, show
        self.data_folder = None if data is None else Path(data)
        self.command, self.sections = command, []
        wanted = {"recipe": name, "config": dataclasses.asdict(config)}
        self.mark = json.loads(json.dumps(wanted))
        self._check_folder()

    def _check_folder(self) -> None:
        """Raise unless the folder is, or can be, of this recipe and configuration."""
        mark = self.folder / RECIPE
        check_writable(self.folder)
        if mark.exists():
            found = _read_part(mark)
            if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
                raise FileError(
                    f"{mark} does not say what recipe the folder is of; restore it, or "
                    "name another folder with --out."
                )
            if found != self.mark:
                raise FileError(
                    f"{self.folder} holds results of other settings: "
                    f"{_difference(found, self.mark)}. Name another folder with --out, "
                    "or give the settings it was made with."
                )
            return
        if self.folder.exists() and not self.folder.is_dir():
            raise FileError(f"{self.folder} is a file; name a folder with --out.")
        if self.folder.is_dir() and any(
            not is_hidden(path.name) for path in self.folder.iterdir()
        ):
            raise FileError(
                f"{self.folder} holds files that are no recipe's results; name "
                "another folder with --out."
            )

    @property
    def directory(self) -> Path:
        """Where everything is kept; it is made when it is first asked for."""
        if not (self.folder / RECIPE).exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_file(self.folder / RECIPE, json.dumps(self.mark, indent=2) + "\n")
        return self.folder

    def data(self, filename: str) -> Path:
        """Return the path of a data file.

        Raises:
          ValueError: there is no folder with data, or no such file in it.
        """
        if self.data_folder is None:
            raise ValueError(
                f"{self.name} needs {filename}; name the folder it is in with --data."
            )
        path = self.data_folder / filename
        if not path.exists():
            raise ValueError(
                f"{self.name} needs {filename}, which is not in {self.data_folder}; "
                "name the folder it is in with --data."
            )
        return path

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """Return a result, computing it unless an earlier run did.

        Args:
          key: its name, which becomes a file's.
          compute: returns something that JSON can hold.
        """
        path = self.directory / "parts" / f"{key}.json"
        if not path.exists():
            text = json.dumps(compute(), indent=1)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, text + "\n")
        found = _read_part(path)
        if not _is_measured(found):
            raise FileError(
                f"{path} holds what are no numbers; delete it to measure them again."
            )
        return found

    def train(
        self,
        key: str,
        model: Any,
        loss: Callable,
        draw: Callable[[int], Any],
        config: TrainConfig,
    ) -> Any:
        """Train a model, go on with its training, or read what was trained before.

        The loss of every step is kept; see `losses`.

        Args:
          key: name of the run.
          model, loss, draw, config: as in `training.loop.fit`.
        """
        folder = self.directory / "runs" / key
        folder.mkdir(parents=True, exist_ok=True)
        with closing(MetricsLog(folder / METRICS)) as log:

            def report(step):
                log.append(step.step, loss=step.loss)
                self.show(f"training {key}", step.step, config.steps)

            return fit(
                model, loss, draw, config, directory=folder / "state", report=report
            )

    def losses(self, key: str) -> list[float]:
        """Return the loss before each step of a run.

        Steps that were repeated after an interruption count once.
        """
        found = read_metrics(self.directory / "runs" / key / METRICS)
        return [found[step]["loss"] for step in sorted(found)]

    def write_table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        """Add a table to the results."""
        self.sections.append(f"## {title}\n\n{markdown_table(columns, rows)}")

    def write_text(self, text: str) -> None:
        """Add a paragraph to the results."""
        self.sections.append(text.strip() + "\n")

    def write_figure(self, name: str, figure: Any, caption: str) -> None:
        """Add a matplotlib figure to the results."""
        from jmamba.report.folder import draw_png

        path = self.directory / f"{name}.png"
        write_file(path, draw_png(figure))
        self.sections.append(f"![{caption}]({path.name})\n\n{caption}\n")

    def finish(self) -> Path:
        """Write all tables and figures on one page of Markdown, and return its path."""
        found = environment()
        facts = {**found.pop("versions"), **found}
        facts = ", ".join(f"{key} {value}" for key, value in facts.items())
        head = f"# {self.name}\n\n`{self.command}`\n\n{facts}\n"
        path = self.directory / RESULTS
        write_file(path, "\n".join([head, *self.sections]))
        return path


def part_name(text: str) -> str:
    """Return a text as a name of a part: letters and digits, a line for the rest.

    Examples:
      >>> part_name("leave one out, <unk>")
      'leave_one_out___unk'
    """
    return "".join(c if c.isalnum() else "_" for c in text).strip("_")


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table in Markdown; floats have three decimals.

    Examples:
      >>> print(markdown_table(["method", "AUC"], [["raw", 0.5]]), end="")
      | method | AUC |
      |---|---|
      | raw | 0.500 |
    """
    lines = [columns, ["---"] * len(columns), *rows]
    texts = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in r] for r in lines]
    texts[1] = ["---"] * len(columns)
    middle = [f"| {' | '.join(line)} |" for line in texts]
    middle[1] = f"|{'|'.join(texts[1])}|"
    return "\n".join(middle) + "\n"


def _read_part(path: Path) -> Any:
    """Return what a file of JSON holds."""
    check_regular(path, error_class=FileError)
    advice = "restore it, or delete it to make it again"
    with reading(path, "is damaged", advice, error_class=FileError):
        return json.loads(path.read_text(encoding="utf-8"))


def _is_measured(found: Any) -> bool:
    """Say whether all that a part holds are numbers, by name or in lists."""
    if isinstance(found, dict):
        return all(map(_is_measured, found.values()))
    if isinstance(found, list):
        return all(map(_is_measured, found))
    return isinstance(found, int | float)


def _difference(found: dict, wanted: dict) -> str:
    if found.get("recipe") != wanted["recipe"]:
        return f"of {found.get('recipe')}, not {wanted['recipe']}"
    old, new = found["config"], wanted["config"]
    return ", ".join(
        f"{key} is {old.get(key)} there and {new.get(key)} here"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    )
