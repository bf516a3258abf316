import dataclasses

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jmamba.attention import METHODS
from jmamba.evaluation import FILLINGS
from jmamba.recipes import pictures
from jmamba.recipes.emoji import Composites
from jmamba.recipes.image_classifiers import VisionConfig
from jmamba.recipes.pictures import load_pictures
from jmamba.recipes.vision import explainers, findings, sanity
from jmamba.recipes.vision.explainers import RELEASED, Explained
from jmamba.recipes.vision.findings import CLAIMS
from jmamba.recipes.vision.measuring import ScoredRow, similarity
from jmamba.recipes.vision.recipe import SIZES, run
from jmamba.recipes.vision.scores import (
    SCORES,
    compare,
    measure_location,
    remove,
    score,
    value,
)
from jmamba.recipes.vision.tables import Choice, least_gain, name_row
from jmamba.recipes.vit import VIT_METHODS
from jmamba.recipes.workbench import Workbench


@pytest.mark.exhaustive
def test_recipe_runs_to_its_tables_and_goes_on(tmp_path, monkeypatch):
    few = {name: METHODS[name] for name in ("raw_attention", "mamba_attribution")}
    monkeypatch.setattr(explainers, "METHODS", few)
    known = {("vim", name) for name in few}
    claims = [c for c in CLAIMS if {c.better, c.worse} <= known]
    monkeypatch.setattr(findings, "CLAIMS", claims)
    monkeypatch.setattr(pictures, "POOL", 64)
    config = dataclasses.replace(
        SIZES["quick"], side=16, patch_size=4, d_model=8, num_layers=1, d_state=2,
        steps=4, batch=2, measured=4, explained=3, validated=3, removed=2,
    )  # fmt: skip

    def make():
        bench = Workbench(tmp_path / "out", name="vision", config=config)
        run(config, bench)
        return bench.finish().read_text()

    text = make()
    for part in ("## Accuracy", "| Vim | raw attention | magnitude |",
                 "| no model | colour distance | signed |",
                 "| ViT | transformer attribution |",
                 "integrated gradients from the mean", "neighbours flipping",
                 "## Sanity checks", "## Better than no model",
                 "## The papers' rankings", "maps.png", "learning.png"):  # fmt: skip
        assert part in text
    assert (tmp_path / "out" / "vim" / "config.json").exists()
    assert make() == text  # all of it is kept


def test_one_seed_is_refused(tmp_path):
    config = dataclasses.replace(SIZES["quick"], seeds=(0,))
    bench = Workbench(tmp_path / "out", name="vision", config=config)
    with pytest.raises(ValueError, match=r"seeds=\(0,\): give two or more"):
        run(config, bench)


@pytest.fixture
def squares():
    """Two pictures of a bright object, one patch of sixteen, and a distractor."""
    masks, rivals = np.zeros((2, 2, 16, 16), bool)
    masks[0, :4, :4], masks[1, 4:8, 8:12] = True, True
    rivals[:, 12:, 12:] = True
    images = np.repeat(masks[..., None].astype(np.float32), 3, axis=-1)
    return Composites(images, np.array([1, 1], np.int32), masks, rivals)


def grids_of(masks):
    return masks.reshape(len(masks), 4, 4, 4, 4).mean(axis=(2, 4))


def test_map_of_the_object_is_found_and_is_what_counts(squares):
    grids = grids_of(squares.masks)
    found = measure_location(squares, grids, patch=4)
    assert found["pointing"].tolist() == [True, True]
    assert value({k: v[None] for k, v in found.items()}, "object") == 1
    worse = measure_location(squares, grids_of(squares.rivals), patch=4)
    assert worse["pointing"].tolist() == [False, False]
    assert (worse["object"] == 0).all()

    def is_bright(images):  # class 1 while any of the object is left
        bright = images.reshape(len(images), -1).max(axis=1) > 0
        return np.stack([~bright, bright], axis=1).astype(float)

    gone = remove(is_bright, squares, grids, patch=4)
    assert not gone["black positive"][:, 1:].any()
    assert gone["black negative"].all()
    # 10 % of sixteen patches is one, the object: its logit is gone from there on
    lost = np.trapezoid([0, 1, 1, 1, 1, 1], (0, 0.1, 0.3, 0.5, 0.7, 0.9)) / 0.9
    np.testing.assert_allclose(gone["black flipping"], lost)
    assert {name.split()[0] for name in gone} == {*FILLINGS}


def test_object_score_is_the_auc_of_scikit_learn():
    draw = np.random.default_rng(0)
    masks = draw.random((3, 8, 8)) < 0.3
    rivals = ~masks & (draw.random((3, 8, 8)) < 0.4)
    images = np.zeros((3, 8, 8, 3), np.float32)
    shown = Composites(images, np.zeros(3, np.int32), masks, rivals)
    maps = draw.random((3, 8, 8))
    found = measure_location(shown, maps, patch=1)
    for heat, mask, rival, auc in zip(
        maps, masks, rivals, found["object"], strict=True
    ):
        both = mask | rival
        assert auc == pytest.approx(roc_auc_score(mask[both], heat[both]), abs=1e-12)
    highest = [np.unravel_index(heat.argmax(), heat.shape) for heat in maps]
    expected = [mask[place] for mask, place in zip(masks, highest, strict=True)]
    assert found["pointing"].tolist() == expected


def test_compare_knows_what_is_better():
    low = {"black positive": np.zeros((2, 9, 5)), "pointing": np.zeros((2, 9))}
    high = {"black positive": np.ones((2, 9, 5)), "pointing": np.ones((2, 9))}
    assert compare(low, high, "black positive").value == 1
    assert compare(low, high, "pointing").value == -1


def test_gain_is_over_the_hardest_map_without_a_model():
    draw = np.random.default_rng(0)

    def row(kind, method, mean):
        values = mean + 0.1 * draw.standard_normal((5, 40))
        return ScoredRow(kind, method, "signed"), {"pointing": values}

    test = dict([
        row("none", "noise", 0.2), row("none", "colour distance", 0.5),
        row("none", "edge energy", 0.4),
        row("vim", "good", 0.6), row("vim", "bad", 0.3),
    ])  # fmt: skip
    for method, sign in (("good", 1), ("bad", -1)):
        found = least_gain(test, ScoredRow("vim", method, "signed"), "pointing")
        assert found[0] == "colour distance" and np.sign(found[1].value) == sign


def test_choice_is_made_by_each_score():
    row = {
        r: ScoredRow("vim", "mamba_lrp", r) for r in ("signed", "positive", "magnitude")
    }
    values = {"signed": 0.2, "positive": 0.9, "magnitude": 0.5}
    choice = Choice({
        row[r]: {"pointing": np.full((2, 3), v),
                 "black positive": np.full((2, 3, 5), v)}
        for r, v in values.items()
    })  # fmt: skip
    assert choice.reading("vim", "mamba_lrp", "pointing").reading == "positive"
    assert choice.reading("vim", "mamba_lrp", "black positive").reading == "signed"


@pytest.mark.parametrize(("gap", "marked"), [(0.012, True), (0.008, False)])
def test_gradients_that_miss_the_change_are_marked(gap, marked):
    row = ScoredRow("vim", "integrated_gradients", "signed")
    gaps = {row.method: {"gap": np.full((2, 3), gap), "change": np.ones((2, 3))}}
    name = name_row(row, gaps)[1]
    assert f"gap {100 * gap:.2f} %" in name and ("NOT CONVERGED" in name) == marked


class Oracle:
    """Knows its pictures if it is trained, and looks for the class it is asked for."""

    def __init__(self, shown, *, trained):
        self.shown, self.trained = shown, trained

    def explain(self, images, target):
        right = self.trained & (target == self.shown.labels)
        noise = np.random.default_rng(0).random((len(images), 4, 4))
        grid = np.where(right[:, None, None], grids_of(self.shown.masks), noise)
        return Explained(grid)


def test_explanations_that_ignore_the_model_fail_and_others_pass(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    masks, rivals = np.zeros((2, 24, 16, 16), bool)
    for mask, rival in zip(masks, rivals, strict=True):
        first, second = draw.permutation(4)[:2]
        mask[4 * first : 4 * first + 4, :8] = True
        rival[4 * second : 4 * second + 4, 8:] = True
    shown = Composites(np.zeros((24, 16, 16, 3), np.float32),
                       (np.arange(24) % 3).astype(np.int32), masks, rivals)  # fmt: skip
    models = {
        name: {"vim": [Oracle(shown, trained=name == "trained") for _ in range(5)]}
        for name in ("trained", "random")
    }
    blind = Explained(draw.random((24, 4, 4)))

    def of_model(model):
        return {"alti": model.explain, "token_norms": lambda images, target: blind}

    monkeypatch.setattr(sanity, "explainers", of_model)
    rows = {name: ScoredRow("vim", name, "signed") for name in ("alti", "token_norms")}
    grids = {rows["alti"]: grids_of(masks), rows["token_norms"]: blind.grid}
    grids = {row: np.stack([grid] * 5) for row, grid in grids.items()}
    found = {
        row: {k: np.stack([v] * 5) for k, v in
              measure_location(shown, grid[0], patch=4).items()}
        for row, grid in grids.items()
    }  # fmt: skip
    bench = Workbench(tmp_path / "out", name="vision", config=VisionConfig())
    sanity.write_sanity(models, shown, grids, found, Choice(found), bench,
                        classes=3, patch=4)  # fmt: skip
    (table,) = bench.sections
    lines = {line.split(" | ")[1]: line for line in table.splitlines() if "Vim" in line}
    assert lines["alti"].count("passes") == 2
    assert lines["token norms"].count("fails") == 2
    assert "1.00 [1.00, 1.00]" in lines["token norms"]  # maps that do not change at all


def test_likeness_is_a_rank_correlation():
    grids = np.random.default_rng(0).random((2, 3, 4, 4))
    assert np.allclose(similarity(grids, np.exp(grids)), 1)
    assert np.allclose(similarity(grids, -grids), -1)
    assert not similarity(grids, np.ones_like(grids)).any()


def test_claims_name_methods_that_exist():
    known = {"vim": {*METHODS, RELEASED}, "vit": {*VIT_METHODS}}
    for claim in CLAIMS:
        for kind, method in (claim.better, claim.worse):
            assert method in known[kind]
        assert claim.score in SCORES


def test_scores_have_intervals_over_seeds():
    draw = np.random.default_rng(0)
    right = draw.random((5, 200)) < 0.7
    found = score({"right": right}, "right")
    assert found.low < 0.7 < found.high and found.high - found.low < 0.3


def test_unknown_pictures(tmp_path):
    bench = Workbench(tmp_path, name="vision", config=SIZES["quick"])
    with pytest.raises(ValueError, match="pictures='photos': give 'camouflage' or"):
        load_pictures("photos", 28, bench)
