import json
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from vision_definition import tiny_vim

from jmamba.attention import explain, heat_map
from jmamba.evaluation import (
    EvaluationReport,
    SegmentationCounts,
    bootstrap_interval,
    count_segmentation,
    evaluate,
    open_mask_folder,
    read_records,
    resize_masked_image,
    segmentation_scores,
)
from jmamba.models.vim.images import normalise

NAMES = [f"image{i}" for i in range(7)]
METHODS = ["lrp", "random"]
SETTINGS = {"model": "tiny", "size": [12, 12]}


class Counting:
    """Measures something that depends on method and sample, and counts its calls."""

    def __init__(self, stop_after=None):
        self.calls, self.stop_after = [], stop_after

    def __call__(self, method, numbers):
        if len(self.calls) == self.stop_after:
            raise KeyboardInterrupt
        self.calls.append((method, list(numbers)))
        base = len(method) / 3
        return {
            "area": np.array([base + i for i in numbers]),
            "counts": jnp.array([[i, 2 * i] for i in numbers]),
        }


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for method in found:
        assert found[method].names == expected[method].names
        assert found[method].values.keys() == expected[method].values.keys()
        for key, value in found[method].values.items():
            np.testing.assert_array_equal(value, expected[method].values[key])


run = partial(evaluate, methods=METHODS, names=NAMES, settings=SETTINGS, batch=3)


@pytest.mark.parametrize("stop_after", range(6))
def test_an_interrupted_run_goes_on_where_it_was(tmp_path, stop_after):
    path = tmp_path / "results" / "records.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(Counting(stop_after), path=path)
    second, reports = Counting(), []
    found = run(second, path=path, report=reports.append)
    assert len(second.calls) == 6 - stop_after  # 3 blocks of 2 methods
    assert_equal(found, run(Counting()))
    assert found["lrp"].values["counts"].tolist()[3] == [3, 6]
    assert reports[-1].done == reports[-1].total == 14
    assert reports[0].resumed == reports[0].done - len(second.calls[0][1])
    third = Counting()
    assert_equal(run(third, path=path), found)
    assert not third.calls  # nothing was left to do


def test_reports_count_measurements():
    reports = []
    run(Counting(), report=reports.append)
    assert [report.done for report in reports] == [3, 6, 9, 12, 13, 14]
    assert reports[1] == EvaluationReport("random", 6, 14, 0)


@pytest.mark.parametrize("lost", [1, 20, 100, 200, 10_000])
def test_a_line_cut_off_in_writing_is_measured_again(tmp_path, lost):
    path = tmp_path / "records.jsonl"
    whole = run(Counting(), path=path)
    content = path.read_bytes()
    path.write_bytes(content[: max(len(content) - lost, 5)])
    again = Counting()
    assert_equal(run(again, path=path), whole)
    assert again.calls
    assert_equal(run(Counting(0), path=path), whole)


def test_samples_and_methods_may_be_added(tmp_path):
    path = tmp_path / "records.jsonl"
    run(Counting(), names=NAMES[:4], methods=["lrp"], path=path)
    added = Counting()
    found = run(added, path=path)
    assert added.calls[0] == ("random", [0, 1, 2])
    assert added.calls[1] == ("lrp", [4, 5])  # of the block 3, 4, 5
    assert_equal(found, run(Counting()))
    stored = read_records(path)
    assert set(stored) == set(METHODS) and sorted(stored["lrp"].names) == NAMES


def test_floats_come_back_as_they_were(tmp_path):
    values = np.random.default_rng(0).standard_normal(7)
    measure = {"value": values}.copy
    found = evaluate(lambda method, numbers: measure(), ["a"], NAMES, settings={},
                     path=tmp_path / "a")  # fmt: skip
    stored = read_records(tmp_path / "a")
    for one in (found, stored):
        np.testing.assert_array_equal(one["a"].values["value"], values)


def test_other_settings_are_refused(tmp_path):
    path = tmp_path / "records.jsonl"
    run(Counting(), path=path)
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=r"model was 'tiny' and is 'small'; skip was 'n"
    ):
        run(Counting(), path=path, settings={**SETTINGS, "model": "small", "skip": 1})
    assert path.read_bytes() == before
    anew = Counting()
    run(anew, path=path, settings={"model": "small"}, restart=True)
    assert len(anew.calls) == 6
    head = json.loads(path.read_text().splitlines()[0])
    assert head["settings"] == {"model": "small"} and len(head["key"]) == 64


def test_a_foreign_file_is_left_alone(tmp_path):
    path = tmp_path / "precious.txt"
    path.write_text("a thought\nand half of anoth")
    for restart in (False, True):
        with pytest.raises(
            ValueError, match="precious.txt is no file of records; give"
        ):
            run(Counting(), path=path, restart=restart)
    assert path.read_text() == "a thought\nand half of anoth"


def test_run_messages(tmp_path):
    path = tmp_path / "records.jsonl"
    with pytest.raises(ValueError, match="batch=0: give at least 1"):
        run(Counting(), batch=0)
    with pytest.raises(ValueError, match=r"names must be .* but \['a'\] come twice"):
        run(Counting(), names=["a", "b", "a"])
    with pytest.raises(ValueError, match=r"methods must be .* but is \[\]"):
        run(Counting(), methods=[])
    with pytest.raises(
        ValueError, match="methods must be a list of different .* 'lrp'"
    ):
        run(Counting(), methods="lrp")
    with pytest.raises(ValueError, match="settings=.* cannot be written as JSON"):
        run(Counting(), settings={"model": object()})
    with pytest.raises(ValueError, match=r"lrp measured area as int64 of shape \(2,\)"):
        run(lambda method, numbers: {"area": [1, 2]})
    with pytest.raises(
        ValueError, match=r"lrp measured area not finite of \['image1'\]"
    ):
        run(lambda method, numbers: {"area": [0, np.nan, 1][: len(numbers)]})

    def changing(method, numbers):
        return {"late" if 6 in numbers else "area": np.ones(len(numbers))}

    with pytest.raises(ValueError, match="lrp measured late, but before that area"):
        run(changing, path=path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "no json\n", *lines[1:]]))
    with pytest.raises(ValueError, match="Line 2 of .* is no JSON .* delete that line"):
        run(Counting(), path=path)
    path.write_text("".join([*lines, "[1]\n"]))
    with pytest.raises(ValueError, match=f"Line {len(lines) + 1} of .* is no record"):
        read_records(path)
    path.write_text(lines[0].replace('"records": 1', '"records": 9'))
    with pytest.raises(ValueError, match="has records of format 9, but this version"):
        run(Counting(), path=path)
    with pytest.raises(
        ValueError, match="There are no records in .*none; run evaluate"
    ):
        read_records(tmp_path / "none")


def test_intervals_cover_what_is_true():
    """Of 95 % intervals of 200 data sets about 95 % hold the mean they came from."""
    draw = np.random.default_rng(0)
    intervals = [
        bootstrap_interval(np.mean, draw.normal(3, 1, 60), resamples=200)
        for _ in range(200)
    ]
    covered = np.mean([low <= 3 <= high for _, low, high in intervals])
    assert 0.90 <= covered <= 0.98
    width = np.mean([high - low for _, low, high in intervals])
    assert width == pytest.approx(2 * 1.96 / np.sqrt(60), rel=0.1)


def test_intervals_are_drawn_alike_and_together():
    draw = np.random.default_rng(1)
    a = draw.normal(0, 5, 50)
    b = a + draw.normal(1, 0.1, 50)
    paired = bootstrap_interval(lambda a, b: np.mean(b - a), a, b)
    assert paired == bootstrap_interval(lambda a, b: np.mean(b - a), a, b)
    assert paired.high - paired.low < 0.1 and paired.low < paired.value < paired.high
    assert paired != bootstrap_interval(lambda a, b: np.mean(b - a), a, b, seed=1)
    narrow = bootstrap_interval(np.mean, a, level=0.5)
    wide = bootstrap_interval(np.mean, a, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_interval_messages():
    with pytest.raises(
        ValueError, match=r"Arrays hold \[3, 2\] samples: give at least"
    ):
        bootstrap_interval(np.mean, [1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match=r"Arrays hold \[0\] samples"):
        bootstrap_interval(np.mean, [])
    with pytest.raises(ValueError, match="level=95, resamples=1000: give a level betw"):
        bootstrap_interval(np.mean, [1], level=95)


def test_segmentation_of_a_folder_from_pictures_to_intervals(tmp_path):
    """All the way: pictures, a model, records of two methods, scores, intervals."""
    draw = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for i in range(4):
        image = draw.integers(0, 256, (10 + i, 14, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
        mask = 255 * draw.integers(0, 2, image.shape[:2], dtype=np.uint8)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
    data, model = open_mask_folder(tmp_path), tiny_vim(layers=1)

    def measure(method, numbers):
        items = [resize_masked_image(data[i], 12) for i in numbers]
        masks = np.stack([item.mask for item in items])
        heat = np.random.default_rng(numbers[0]).random(masks.shape)
        if method != "noise":
            colours = np.stack([x.image for x in items]).astype(np.float32) / 255
            relevance = explain(model, jnp.asarray(normalise(colours)), method)
            heat = heat_map(model, relevance, 12, 12)
        return count_segmentation(heat, masks)._asdict()

    methods = ["raw_attention", "noise"]
    found = evaluate(measure, methods, data.names, settings={"side": 12}, batch=2,
                     path=tmp_path / "records.jsonl")  # fmt: skip
    for method in methods:
        whole = [SegmentationCounts(**measure(method, [i, i + 1])) for i in (0, 2)]
        counts = [found[method].values[key] for key in SegmentationCounts._fields]

        def accuracy(*counts):
            return segmentation_scores([SegmentationCounts(*counts)]).pixel_accuracy

        interval = bootstrap_interval(accuracy, *counts, resamples=50)
        assert interval.value == segmentation_scores(whole).pixel_accuracy
        assert interval.low < interval.value < interval.high
