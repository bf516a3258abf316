"""Explanations to test reports with: of a tiny model, and made up."""

import numpy as np
from flax import nnx
from matplotlib.text import Text

import jmamba
from jmamba.checkpoints import ByteTokenizer
from jmamba.figures.labels import split_pieces, token_labels
from jmamba.report import Explanation, Predictions


def assert_readable(figure) -> None:
    """Assert that letters are 11 pixels high or more on a page 1280 pixels wide.

    There the column is 955 pixels; wider figures are shrunk to it.
    """
    scale = 955 / (72 * max(figure.get_figwidth(), 6.4))
    for text in figure.findobj(Text):
        assert not text.get_text() or text.get_fontsize() * scale >= 11, text


def tiny_model(num_layers=3) -> jmamba.MambaLM:
    config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=num_layers)
    return jmamba.MambaLM(config, rngs=nnx.Rngs(0))


def made_up(text: str, num_layers: int, *, matrices: bool = True) -> Explanation:
    """Return an explanation of random numbers, for pictures of any size."""
    tokenizer, rng = ByteTokenizer(), np.random.default_rng(0)
    ids = tokenizer.encode(text)
    pieces, length = split_pieces(text, tokenizer.offsets(text)), len(ids)
    triangle = np.tri(length, dtype=np.float32)
    attention = triangle * rng.random((num_layers, length, length), np.float32)
    return Explanation(
        model="made up",
        text=text,
        ids=np.asarray(ids, np.int32),
        pieces=tuple(pieces),
        labels=tuple(token_labels(pieces, tokenizer.pieces(ids))),
        layers=(0, num_layers - 1) if num_layers > 1 else (0,),
        predictions=Predictions(
            np.array([36, 10], np.int32), np.array([0.9, 0.1], np.float32), ("$", "↵")
        ),
        question=Predictions(
            np.array([36], np.int32), np.array([0.9], np.float32), ("$",)
        ),
        left_out=rng.normal(size=len(pieces)).astype(np.float32),
        relevance={"mamba_lrp": rng.normal(size=length).astype(np.float32)},
        last_attention=attention[:, -1],
        attention=attention if matrices else None,
        norms=1 + rng.random((num_layers + 1, length), np.float32),
        jacobian=triangle * rng.random((length, length), np.float32),
        settings={"layers": [0], "top": 2},
        environment={"platform": "cpu", "versions": {"python": "3"}},
        timings={"prediction": 0.1},
    )
