"""Differences over seeds: how often they are called, with none and with some."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from jmamba.recipes.seeds import detectable_difference, pair_seeds, write_pairs
from jmamba.recipes.workbench import Workbench
from jmamba.training.config import TrainConfig


@pytest.mark.parametrize("count", [2, 5, 30])
def test_paired_differences_are_those_of_scipy(count):
    differences = np.random.default_rng(count).normal(0.3, 1, size=count)
    expected: Any = ttest_1samp(differences, 0)
    interval = expected.confidence_interval(0.95)
    found = pair_seeds(differences)
    ours = found.low, found.high, found.p_value
    theirs = interval.low, interval.high, expected.pvalue
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_an_interval_over_seeds_covers_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(size=(4000, 5))
    missed = [pair_seeds(draw).p_value < 0.05 for draw in draws]
    assert np.mean(missed) == pytest.approx(0.05, abs=0.011)  # three sigma


@pytest.mark.parametrize("comparisons", [1, 7])
def test_a_detectable_difference_is_found_four_times_in_five(comparisons):
    noise = np.random.default_rng(1).normal(size=(4000, 5))
    unit = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    true = detectable_difference(unit / unit.std(ddof=1), comparisons=comparisons)
    found = [pair_seeds(draw + true).p_value < 0.05 / comparisons for draw in noise]
    assert np.mean(found) == pytest.approx(0.8, abs=0.02)  # three sigma


def test_pairs_are_corrected_together(tmp_path):
    config = TrainConfig(steps=2, batch=1, warmup=1)
    bench = Workbench(tmp_path, name="demo", config=config)
    noise = np.array([0.0, 0.1, -0.1, 0.05, -0.05])
    pairs = {("a", "b"): 1 + noise, ("a", "c"): noise, ("b", "c"): noise - 1}
    write_pairs(pairs, "points", bench, scale=100.0)
    rows = [row.split("|") for row in bench.sections[0].strip().splitlines()[4:]]
    assert [row[-2].strip() for row in rows] == ["holds", "undecided here", "fails"]
    for row, differences in zip(rows, pairs.values(), strict=True):
        seen = 100 * detectable_difference(differences, comparisons=3)
        assert float(row[-3]) == pytest.approx(seen, abs=1e-3)


def test_one_seed_has_no_spread():
    for function in (pair_seeds, detectable_difference):
        with pytest.raises(ValueError, match="1 seed: give 2 or more"):
            function(np.ones(1))
