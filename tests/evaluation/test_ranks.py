"""Rank statistics: counted pair by pair, and of order alone."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jmamba.evaluation import rank_correlation, ranking_auc

VALUES = st.lists(st.integers(-3, 3), min_size=2, max_size=8)


@given(VALUES, st.data())
def test_area_is_the_share_of_pairs_in_order(values, data):
    array = np.array(values, float)
    size = len(values)
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    pairs = list(itertools.product(array[chosen], array[~chosen]))
    if not pairs:
        return
    area = ranking_auc(array, chosen)
    assert area == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a, b in pairs]))


def test_rank_correlation_is_of_order_alone():
    x = np.array([1.0, 4.0, 2.0, 9.0])
    assert rank_correlation(x, np.exp(x)) == pytest.approx(1)
    assert rank_correlation(x, -(x**3)) == pytest.approx(-1)
    assert np.isnan(rank_correlation(x, np.ones(4)))
    assert np.isnan(rank_correlation(x[:0], x[:0]))
