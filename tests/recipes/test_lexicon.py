import numpy as np
import pytest

from jmamba.recipes.text.lexicon import (
    Lexicon,
    agree,
    derive_lexicon,
    read_lexicon,
)
from jmamba.recipes.text.sentences import Rated

LEXICON = Lexicon("toy", {"good": 2.0, "bad": -2.0, "film": 0.1}, 1.0)


def test_agreement_follows_the_explained_class():
    words = ["a", "good", "film", "bad"]
    relevance = [0.1, 3.0, -0.2, -2.0]
    positive = agree(LEXICON, words, relevance, 1)
    assert (positive.area, positive.sign) == (1.0, 1.0)
    negative = agree(LEXICON, words, relevance, -1)
    assert (negative.area, negative.sign) == (1.0, 0.0)
    assert negative.correlation == pytest.approx(-positive.correlation)


def test_agreement_without_polar_words_is_undefined():
    assert np.isnan(agree(LEXICON, ["a", "film"], [1.0, 2.0], 1)).all()


def test_derived_polarity_is_the_shrunk_mean():
    rated = [Rated(3.0, "good good film")] * 5 + [Rated(-1.0, "film")] * 5
    lexicon = derive_lexicon(rated, min_count=5, polar=0.5)
    assert lexicon.scores == pytest.approx({"film": 0.0, "good": 5 * 2 / 10})
    assert "good" not in derive_lexicon(rated, min_count=6, polar=0.5).scores


def test_lexicon_messages(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text("good\t1.9\t0.5\nbad\n")
    with pytest.raises(ValueError, match="line 2: 'bad' does not begin with word"):
        read_lexicon(path, "toy")
    with pytest.raises(ValueError, match="1 words and relevance of shape"):
        agree(LEXICON, ["a"], [1.0, 2.0], 1)
