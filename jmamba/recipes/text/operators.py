"""How words are taken out of sentences."""

import numpy as np
from jaxtyping import Bool

from jmamba.evaluation import replace_tokens
from jmamba.recipes.text.sentences import PADDING, UNKNOWN, Encoded


def forget_words(encoded: Encoded, gone: Bool[np.ndarray, "b l"]) -> Encoded:
    """Return sentences in which some words have become the unknown word."""
    tokens = replace_tokens(encoded.tokens, gone, replacement=UNKNOWN)
    return encoded._replace(tokens=tokens)


def delete_words(encoded: Encoded, gone: Bool[np.ndarray, "b l"]) -> Encoded:
    """Return sentences without some of their words, which become shorter."""
    order = np.argsort(gone, axis=1, kind="stable")
    tokens = np.take_along_axis(np.where(gone, PADDING, encoded.tokens), order, axis=1)
    query = (encoded.query - gone.sum(axis=1)).astype(encoded.query.dtype)
    return encoded._replace(tokens=tokens, query=query)


OPERATORS = {"<unk>": forget_words, "deleted": delete_words}
"""Name -> function of sentences and of the words that are gone, (b, l)."""
