import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from jmamba.commands import reproduce
from jmamba.figures.canvas import new_figure
from jmamba.recipes import load_recipe, registry
from jmamba.recipes.workbench import Workbench, markdown_table
from jmamba.training.classification import (
    Labelled,
    classification_loss,
    is_right,
    predict_all,
)
from jmamba.training.config import TrainConfig

CONFIG = TrainConfig(steps=6, batch=4, warmup=1, save_every=2)


def bench_in(folder, config=CONFIG, **options):
    return Workbench(folder, name="demo", config=config, **options)


def draw(step):
    rng = np.random.default_rng(step)
    x = rng.normal(size=(CONFIG.batch, 3)).astype(np.float32)
    return Labelled(x, (x[:, 0] > 0).astype(np.int32))


def test_once_computes_once_over_runs(tmp_path):
    assert bench_in(tmp_path).once("a", lambda: {"x": [1, 2.5]}) == {"x": [1, 2.5]}
    assert bench_in(tmp_path).once("a", lambda: 1 / 0) == {"x": [1, 2.5]}


def test_once_leaves_nothing_of_a_failure(tmp_path):
    bench = bench_in(tmp_path)
    with pytest.raises(TypeError):
        bench.once("a", lambda: object())
    assert bench.once("a", lambda: 3) == 3


def test_train_reads_what_was_trained(tmp_path):
    def run():
        model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        bench = bench_in(tmp_path)
        return bench, bench.train("a", model, classification_loss, draw, CONFIG)

    bench, model = run()
    assert len(bench.losses("a")) == CONFIG.steps
    again, same = run()
    assert np.array_equal(same.kernel[...], model.kernel[...])
    assert again.losses("a") == bench.losses("a")


def test_workbench_is_of_one_configuration(tmp_path):
    assert bench_in(tmp_path).directory == tmp_path
    other = dataclasses.replace(CONFIG, steps=9)
    with pytest.raises(ValueError, match="steps is 6 there and 9 here"):
        bench_in(tmp_path, other)
    with pytest.raises(ValueError, match="of demo, not other"):
        Workbench(tmp_path, name="other", config=CONFIG)


def test_workbench_takes_no_folder_of_other_files(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="holds files that are no recipe's"):
        bench_in(tmp_path)


def test_data_messages(tmp_path):
    with pytest.raises(ValueError, match="demo needs x.gz; name the folder"):
        bench_in(tmp_path / "a").data("x.gz")
    with pytest.raises(ValueError, match="needs x.gz, which is not in"):
        bench_in(tmp_path / "b", data=tmp_path).data("x.gz")


def test_finish_writes_tables_and_figures(tmp_path):
    bench = bench_in(tmp_path, command="jmamba reproduce demo")
    bench.write_table("Scores", ["method", "AUC"], [["raw", 0.25], ["roll", 1]])
    bench.write_text("A paragraph.")
    bench.write_figure("curve", new_figure(2.0, 2.0), "A curve")
    text = bench.finish().read_text()
    for part in ("`jmamba reproduce demo`", "| raw | 0.250 |", "| roll | 1 |",
                 "A paragraph.", "![A curve](curve.png)"):  # fmt: skip
        assert part in text
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_markdown_table_has_a_row_each():
    assert len(markdown_table(["a"], [[1], [2]]).splitlines()) == 4


def test_predict_all_is_the_model():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (7, 3))
    np.testing.assert_allclose(predict_all(model, x, batch=3), model(x), rtol=1e-6)
    right = is_right(model, Labelled(x, np.argmax(np.asarray(model(x)), axis=1)))
    assert right.all()


@dataclasses.dataclass(frozen=True)
class Example:
    steps: int = 3
    rate: float = 0.5
    seeds: tuple = (0, 1)
    kind: str = "a"


def test_change_fields_keeps_types():
    changed = reproduce.change_fields(
        Example(), ["steps=9", "rate=1", "seeds=[4]", "kind=b"]
    )
    assert changed == Example(9, 1.0, (4,), "b") and type(changed.rate) is float


@pytest.mark.parametrize("text", ["steps", "stepz=3"])
def test_change_fields_names_the_fields(text):
    with pytest.raises(ValueError, match="fields steps, rate, seeds, kind"):
        reproduce.change_fields(Example(), [text])


@pytest.mark.parametrize("text", ["steps=x", "steps=1.5", "seeds=3", "rate=a"])
def test_change_fields_keeps_to_the_type(text):
    with pytest.raises(ValueError, match="give a value like the present one"):
        reproduce.change_fields(Example(), [text])


def test_load_recipe_lists_the_known():
    with pytest.raises(ValueError, match="Unknown recipe 'nothing'"):
        load_recipe("nothing")


@pytest.mark.parametrize("name", registry.RECIPES)
def test_recipes_have_all_sizes(name):
    recipe = load_recipe(name)
    assert {"quick", "cpu", "large"} <= set(recipe.sizes)
    for config in recipe.sizes.values():
        json.dumps(dataclasses.asdict(config))
