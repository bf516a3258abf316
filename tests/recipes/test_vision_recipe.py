import dataclasses

import numpy as np
import pytest
from test_pictures import write_idx

from jmamba.attention import METHODS
from jmamba.evaluation import Interval
from jmamba.recipes.emoji import Composites
from jmamba.recipes.fashion import FILES
from jmamba.recipes.pictures import load_pictures
from jmamba.recipes.verdicts import judge
from jmamba.recipes.vision import scores
from jmamba.recipes.vision.findings import CLAIMS
from jmamba.recipes.vision.recipe import SIZES, run
from jmamba.recipes.workbench import Workbench


@pytest.fixture
def data(tmp_path):
    """Eight grey pictures: a bright square on the left or on the right."""
    grey, labels = np.zeros((8, 8, 8)), np.arange(8) % 2
    for i, label in enumerate(labels):
        grey[i, 2:6, 4 * label : 4 * label + 3] = 200
    for images, classes in FILES.values():
        write_idx(tmp_path / images, grey)
        write_idx(tmp_path / classes, labels)
    return tmp_path


def test_recipe_runs_to_its_tables_and_goes_on(data, tmp_path, monkeypatch):
    named = {claim.better[1] for claim in CLAIMS} | {claim.worse[1] for claim in CLAIMS}
    few = {name: METHODS[name] for name in METHODS if name in named}
    monkeypatch.setattr(scores, "METHODS", few)
    config = dataclasses.replace(
        SIZES["quick"], side=8, patch_size=2, d_model=8, num_layers=2, d_state=2,
        steps=4, batch=2, measured=4, explained=3,
    )  # fmt: skip

    def make():
        bench = Workbench(tmp_path / "out", name="vision", config=config, data=data)
        run(config, bench)
        return bench.finish().read_text()

    text = make()
    for part in ("## Accuracy", "| Vim | mamba lrp |", "| ViT | raw attention |",
                 "## The papers' rankings", "maps.png"):  # fmt: skip
        assert part in text
    assert (tmp_path / "out" / "vim" / "config.json").exists()
    assert make() == text  # all of it is kept


def test_measured_map_of_the_object_is_perfect():
    masks = np.zeros((2, 8, 8), bool)
    masks[:, 2:6, 4:8] = True
    images = np.repeat(masks[..., None].astype(np.float32), 3, axis=-1)
    pictures = Composites(images, np.array([1, 1], np.int32), masks, ~masks)

    def is_bright(images):  # class 1 while any of the object is left
        bright = images.reshape(len(images), -1).max(axis=1) > 0
        return np.stack([~bright, bright], axis=1).astype(float)

    found = scores.measure_maps(is_bright, pictures, masks.astype(float), patch=2)
    assert scores.score(found, "mIoU").value == 1
    assert scores.score(found, "pixel accuracy").value == 1
    # 16 of 64 pixels are the object: at 10 and 20 % some of it is left
    assert found["positive"][0].tolist() == [True, True] + [False] * 7
    assert found["negative"][0].tolist() == [True] * 9
    assert found["flipping"][0] > 0.5


def test_compare_knows_what_is_better():
    low = {"positive": np.zeros((9, 9))}
    high = {"positive": np.ones((9, 9))}
    assert scores.compare(low, high, "positive AUC").value == 1
    assert judge(scores.compare(low, high, "positive AUC")) == "agrees"
    assert judge(Interval(-1.0, -2.0, -0.5)) == "contradicts"


def test_claims_name_methods_that_exist():
    known = {"vim": {*scores.METHODS}, "vit": {*scores.VIT_METHODS}}
    for claim in CLAIMS:
        for kind, method in (claim.better, claim.worse):
            assert method in known[kind]
        assert claim.score in scores.SCORES


def test_unknown_pictures(tmp_path):
    bench = Workbench(tmp_path, name="vision", config=SIZES["quick"])
    with pytest.raises(ValueError, match="pictures='photos': give 'emoji' or"):
        load_pictures("photos", 28, bench)
