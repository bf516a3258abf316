import pytest
from typer.testing import CliRunner

from jmamba.cli import app
from jmamba.commands import reproduce
from jmamba.figures.canvas import new_figure
from jmamba.recipes import RECIPES
from jmamba.recipes.registry import Recipe, load_recipe
from jmamba.training.config import TrainConfig

RUN = CliRunner()


class Config(TrainConfig):
    """Settings of a recipe that keeps one number per step."""

    def least_bytes(self):
        return 8 * self.steps


def weigh(config, bench):
    """Make a recipe's page without training anything."""
    assert bench.data("facts.txt").exists()
    bench.write_table("Steps", ["steps"], [[config.steps]])
    figure = new_figure(2.0, 1.0)
    figure.add_subplot().plot([0, 1])
    bench.write_figure("line", figure, "A line")


def run(*args):
    result = RUN.invoke(app, ["reproduce", *map(str, args)])
    assert "Traceback" not in result.output
    return result


def test_recipe_runs_with_fields_changed(tmp_path, monkeypatch):
    sizes = {"quick": Config(steps=9, batch=1, warmup=1)}
    monkeypatch.setattr(reproduce, "load_recipe", lambda name: Recipe(sizes, weigh))
    (tmp_path / "facts.txt").touch()
    options = ["--data", tmp_path, "--out", tmp_path / "out", "--size", "quick"]
    result = run("demo", *options, "--set", "steps=20")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "out" / "results.md").read_text()
    assert "| 20 |" in page and page in result.stdout
    assert "`jmamba reproduce demo --size quick --data FOLDER --set steps=20`" in page
    result = run("demo", *options)
    assert result.exit_code == 2
    assert "steps is 20 there and 9 here" in " ".join(result.stderr.split())


def test_recipes_are_listed_and_mistakes_said(tmp_path):
    listed = run().stdout
    assert all(name in listed for name in RECIPES)
    result = run("visoin")
    assert result.exit_code == 2 and "Unknown recipe 'visoin'" in result.stderr
    result = run("language", "--size", "huge")
    assert result.exit_code == 2 and "give one of quick, cpu, large" in result.stderr
    result = run("language", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "language needs enwik8.gz; name the folder it is in with --data" in (
        " ".join(result.stderr.split())
    )


LARGE = {
    "vision": ("batch", "d_model", "side", "measured", "explained"),
    "reordering": ("batch", "d_model", "side", "measured"),
    "text": ("batch", "length"),
    "planted-text": ("batch", "training", "test"),
    "attention-figures": ("batch", "d_model", "length", "shown", "windows", "images"),
    "language": ("batch", "length"),
    "count-in-row": ("batch", "d_model", "length", "strings"),
    "dynamics-figures": ("phase_points",),
}
"""Recipe -> fields that ask for memory."""


@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name in LARGE for field in LARGE[name]]
)
def test_more_than_the_memory_is_refused_before_any_work(name, field, tmp_path):
    result = run(name, "--out", tmp_path / "out", "--set", f"{field}={10**9}")
    assert result.exit_code == 2, result.output
    message = " ".join(result.stderr.split())
    assert f"{name} needs at least" in message and "--set" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", LARGE)
def test_published_sizes_fit_into_a_small_machine(name):
    assert load_recipe(name).sizes["cpu"].least_bytes() < 2**30
