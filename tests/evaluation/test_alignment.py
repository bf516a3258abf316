import itertools

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jmamba.evaluation import (
    AlignmentCounts,
    align_words,
    alignment_error_rate,
    average_precision,
    count_alignment,
    merge_words,
    ranking_auc,
    recall_at,
    retrieval_scores,
)


def test_error_rate_by_hand():
    """Links a0 b1 c1, sure a0 c2, possible b0 c1: A and S = 1, A and P = 2."""
    links = align_words(jnp.array([[3.0, 1, 2], [0, 5, 1], [-4, -1, -2]]))
    assert links.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    sure = np.array([[1, 0, 0], [0, 0, 0], [0, 0, 1]])
    possible = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    counts = count_alignment(links, sure, possible)
    assert counts == AlignmentCounts(sure_hits=1, possible_hits=2, links=3, sure=2)
    assert alignment_error_rate([counts]) == pytest.approx(1 - 3 / 5)
    with_sure = count_alignment(links, sure, possible + sure)
    assert with_sure == counts  # sure links are possible either way


def test_error_rate_of_a_corpus_sums_first():
    perfect, wrong = AlignmentCounts(2, 2, 2, 2), AlignmentCounts(0, 0, 5, 3)
    assert alignment_error_rate([perfect]) == 0
    assert alignment_error_rate([wrong]) == 1
    assert alignment_error_rate([perfect, wrong]) == pytest.approx(1 - 4 / 12)


def test_extra_possible_links_cost_nothing():
    sure, possible = np.eye(2, dtype=bool), np.ones((2, 2), bool)
    counts = count_alignment(possible, sure, possible)
    assert alignment_error_rate([counts]) == 0


@hypothesis.given(seed=st.integers(0, 999))
def test_merged_words_equal_loops(seed):
    draw = np.random.default_rng(seed)
    relevance = draw.standard_normal((5, 6))
    target, source = [1, 0, 0, -1, 2], [0, 1, 1, -1, 1, 0]
    merged = merge_words(relevance, target, source)
    for t, s in itertools.product(range(3), range(2)):
        rows = [i for i in range(5) if target[i] == t]
        columns = [j for j in range(6) if source[j] == s]
        expected = sum(relevance[i, j] for i in rows for j in columns) / len(rows)
        assert merged[t, s] == pytest.approx(expected, abs=1e-12)


def auc_loop(scores, labels) -> float:
    wins = [
        (a > b) + (a == b) / 2
        for a, b in itertools.product(scores[labels], scores[~labels])
    ]
    return float(np.mean(wins))


def recall_loop(scores, labels, k) -> float:
    """Mean over all orders of the tokens, of which the sort keeps equal ones."""
    found = []
    for order in itertools.permutations(range(len(scores))):
        ranked = sorted(order, key=lambda i: -scores[i])
        found.append(sum(labels[i] for i in ranked[:k]) / labels.sum())
    return float(np.mean(found))


@hypothesis.given(
    labels=st.lists(st.booleans(), min_size=1, max_size=3),
    seed=st.integers(0, 999),
    k=st.integers(1, 6),
)
def test_rankings_equal_their_definitions(labels, seed, k):
    labels = np.array([True, False, *labels])
    scores = np.random.default_rng(seed).integers(0, 3, labels.size) / 2  # with ties
    assert ranking_auc(scores, labels) == pytest.approx(auc_loop(scores, labels))
    expected = recall_loop(scores, labels, k)
    assert recall_at(scores, labels, k) == pytest.approx(expected)


def test_retrieval_by_hand():
    relevance = np.array([[[5.0, 0, 0, 0], [1, 3, 0, 0], [4, 1, 3, 2], [1, 4, 2, 3]]])
    gold = np.array([[[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]]])
    scores = retrieval_scores(relevance, gold)  # the first and last row do not rank
    # row 1: the true one is second of four; row 2: true ones are second and third
    assert scores.auc.tolist() == pytest.approx([2 / 3, 1 / 2])
    assert scores.precision.tolist() == pytest.approx([1 / 2, (1 / 2 + 2 / 3) / 2])
    assert scores.recall.tolist() == [0, 0.5]
    assert retrieval_scores(relevance, gold, k=3).recall.tolist() == [1, 1]
    causal = np.tri(4, dtype=bool)[None]
    seen = retrieval_scores(relevance, gold, seen=causal)
    assert seen.auc.tolist() == [0, 0.5]  # one of two; one of the true ones is ahead
    assert seen.precision[1] == average_precision([4, 1, 3], [0, 0, 1])


def test_a_copying_model_is_found_out():
    """Attention that looks back as far as the copy task asks for is perfect."""
    length = 5
    gold = np.eye(length, 2 * length, dtype=bool)  # output i copies input i
    draw = np.random.default_rng(0)
    noise = draw.random(gold.shape)
    perfect = retrieval_scores(gold + 0.5 * noise, gold)
    assert all(score.tolist() == [1.0] * length for score in perfect)
    blind = retrieval_scores(np.ones(gold.shape), gold)
    assert blind.auc.tolist() == [0.5] * length
    assert blind.recall.tolist() == pytest.approx([0.1] * length)


def test_alignment_messages():
    with pytest.raises(
        ValueError, match=r"at least one source, but has shape \(2, 0\)"
    ):
        align_words(np.ones((2, 0)))
    with pytest.raises(ValueError, match="relevance must be finite"):
        merge_words([[np.nan]], [0], [0])
    with pytest.raises(ValueError, match=r"target_words=\[0, 2\]: .* each of 2 tokens"):
        merge_words(np.ones((2, 2)), [0, 2], [0, 0])
    with pytest.raises(ValueError, match=r"source_words=\[-1, -1\]: give the word"):
        merge_words(np.ones((2, 2)), [0, 1], [-1, -1])
    with pytest.raises(ValueError, match=r"but are \(1, 2\), \(2, 1\) and \(1, 2\)"):
        count_alignment([[1, 0]], [[1], [0]], [[1, 0]])
    for counts in ([], [AlignmentCounts(0, 0, 0, 0)]):
        with pytest.raises(ValueError, match="There are no links; give at least one"):
            alignment_error_rate(counts)


def test_retrieval_messages():
    gold = np.array([[1, 0]])
    with pytest.raises(ValueError, match=r"\(1, 3\), \(1, 2\) and \(1, 3\)"):
        retrieval_scores(np.ones((1, 3)), gold)
    with pytest.raises(ValueError, match="relevance is not finite"):
        retrieval_scores([[np.inf, 1]], gold)
    with pytest.raises(ValueError, match="k=0: give at least 1"):
        retrieval_scores([[2.0, 1]], gold, k=0)
    with pytest.raises(
        ValueError, match="No target has both a true source and another"
    ):
        retrieval_scores([[2.0, 1]], [[1, 1]])
    with pytest.raises(ValueError, match="2 scores and 2 labels, 2 of them positive"):
        ranking_auc([1, 2], [1, 1])
    with pytest.raises(ValueError, match="2 labels, 1 of them positive, and k=0"):
        recall_at([1, 2], [1, 0], 0)
