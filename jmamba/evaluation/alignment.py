"""Relevance as an alignment: which source word a target word was made from."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jmamba.evaluation.replacement import STAYS


class AlignmentCounts(NamedTuple):
    """What one pair of sentences adds to the error rate of a corpus.

    Attributes:
      sure_hits: links that are in the alignment and are sure.
      possible_hits: links that are in the alignment and are possible.
      links: links of the alignment.
      sure: links that are sure.
    """

    sure_hits: int
    possible_hits: int
    links: int
    sure: int


def align_words(relevance: Any) -> Bool[np.ndarray, "target source"]:
    """Return the alignment of each target word with its most relevant source word.

    Args:
      relevance: of source words for target words, (target, source); of equal ones the
        first counts.

    Raises:
      ValueError: relevance is no finite matrix, or has no source word.

    Examples:
      >>> align_words([[0.2, 0.9, -1.0], [3.0, 1.0, 0.0]]).astype(int).tolist()
      [[0, 1, 0], [1, 0, 0]]
    """
    heat = _check_matrix(relevance)
    links = np.zeros(heat.shape, bool)
    links[np.arange(len(heat)), heat.argmax(axis=1)] = True
    return links


def merge_words(
    relevance: Any, target_words: Any, source_words: Any
) -> Float[np.ndarray, "target source"]:
    """Return relevance between words from that between their tokens.

    A word as a source has the sum over its tokens, as a target the mean over them.

    Args:
      relevance: of source tokens for target tokens, (target, source).
      target_words: the word of each target token, counted from 0 without gaps; -1 for
        tokens of none.
      source_words: the word of each source token, likewise.

    Raises:
      ValueError: relevance is no finite matrix, or word numbers do not fit.

    Examples:
      >>> merge_words([[1.0, 2.0, 4.0], [3.0, 0.0, 8.0]], [0, 0], [0, 0, 1]).tolist()
      [[3.0, 6.0]]

    References:
      Ferrando et al., "Towards opening the black box of neural machine translation",
      EMNLP 2022.
    """
    heat = _check_matrix(relevance)
    targets = _membership(target_words, heat.shape[0], "target_words")
    sources = _membership(source_words, heat.shape[1], "source_words")
    return targets @ heat @ sources.T / targets.sum(axis=1, keepdims=True)


def count_alignment(links: Any, sure: Any, possible: Any) -> AlignmentCounts:
    """Compare an alignment with one by hand.

    Args:
      links: of the alignment, booleans (target, source).
      sure: links that must be there.
      possible: links that may be there; sure ones count among them, whether they are
        given or not.

    Raises:
      ValueError: shapes differ.

    Examples:
      >>> links = [[1, 0], [0, 1]]
      >>> count_alignment(links, sure=[[1, 0], [0, 0]], possible=[[0, 0], [1, 0]])
      AlignmentCounts(sure_hits=1, possible_hits=1, links=2, sure=1)
    """
    found, must, may = (np.asarray(x, bool) for x in (links, sure, possible))
    if found.ndim != 2 or not found.shape == must.shape == may.shape:
        raise ValueError(
            "links, sure and possible must all be (target, source), but are "
            f"{found.shape}, {must.shape} and {may.shape}."
        )
    return AlignmentCounts(
        sure_hits=int((found & must).sum()),
        possible_hits=int((found & (may | must)).sum()),
        links=int(found.sum()),
        sure=int(must.sum()),
    )


def alignment_error_rate(counts: Iterable[AlignmentCounts]) -> float:
    """Return the alignment error rate of a corpus, the lower the better.

        AER = 1 - (|A and S| + |A and P|) / (|A| + |S|)

    for links A of the alignment, sure ones S and possible ones P, summed over the
    corpus before dividing.

    Args:
      counts: what `count_alignment` returned for each pair of sentences.

    Raises:
      ValueError: there are no links at all.

    Examples:
      >>> alignment_error_rate([AlignmentCounts(1, 1, 2, 1)])
      0.33333333333333337

    References:
      Och & Ney, "A systematic comparison of various statistical alignment models",
      Computational Linguistics 29, 2003.
    """
    total = np.sum([tuple(one) for one in counts], axis=0)
    if total.ndim == 0 or total[2] + total[3] == 0:
        raise ValueError("There are no links; give at least one pair with some.")
    return float(1 - (total[0] + total[1]) / (total[2] + total[3]))


def _check_matrix(relevance) -> np.ndarray:
    heat = np.asarray(relevance, np.float64)
    if heat.ndim != 2 or heat.shape[1] == 0 or not np.isfinite(heat).all():
        raise ValueError(
            "relevance must be finite and (target, source), with at least one source, "
            f"but has shape {heat.shape}."
        )
    return heat


def _membership(words, length, name) -> np.ndarray:
    numbers = np.asarray(words)
    kept = numbers[numbers != STAYS] if numbers.dtype.kind in "iu" else numbers[:0]
    count = int(kept.max(initial=-1)) + 1
    if (
        numbers.shape != (length,)
        or set(kept.tolist()) != set(range(count))
        or not count
    ):
        raise ValueError(
            f"{name}={words}: give the word of each of {length} tokens, 0, 1, ... "
            "without gaps, and -1 for tokens of none."
        )
    return (numbers[None] == np.arange(count)[:, None]).astype(float)
