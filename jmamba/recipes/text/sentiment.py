"""A Mamba that ends a sentence with its class: positive or negative."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from jmamba.attention.question import read_logits
from jmamba.models.mamba.config import MambaConfig
from jmamba.models.mamba.model import MambaLM
from jmamba.recipes.text.sentences import (
    LABELS,
    Encoded,
    Split,
    Vocabulary,
    drop_words,
    read_rated,
    split_rated,
)
from jmamba.recipes.workbench import Workbench
from jmamba.training.config import TrainConfig
from jmamba.training.language import new_model
from jmamba.training.memory import mamba_training_bytes

FILE = "movie-snippets.tsv"


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Settings of the text recipe.

    Attributes:
      seeds: of the models; each is trained and explained.
      d_model, num_layers: of the models.
      steps, batch, learning_rate: of their training.
      weight_decay: of projection matrices.
      most_dropped: up to this share of a training sentence's words is unknown, so that
        texts without some of their words are nothing new to the models.
      threshold: sentences whose rating is less than that from 0 are left out.
      min_count: how often a training word must occur to be known.
      length: tokens of a sentence at most.
      sentences: how many of the test sentences are explained.
      chosen_by: how many of the validation sentences readings are chosen by.
      words: that they have at most.
    """

    seeds: tuple = (0, 1, 2, 3, 4)
    d_model: int = 64
    num_layers: int = 3
    steps: int = 900
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    most_dropped: float = 0.7
    threshold: float = 1.0
    min_count: int = 3
    length: int = 40
    sentences: int = 40
    chosen_by: int = 20
    words: int = 16

    def least_bytes(self) -> int:
        """Return the bytes of memory that the recipe takes at least."""
        sizes = MambaConfig(
            vocab_size=len(LABELS), d_model=self.d_model, num_layers=self.num_layers
        )
        return mamba_training_bytes(sizes, self.batch, self.length)


class Corpus:
    """The sentences and their tokens, one split for all seeds.

    Args:
      config: settings of the recipe.
      bench: knows where the file is.

    Raises:
      ValueError: the file is missing or cannot be read.
    """

    def __init__(self, config: TextConfig, bench: Workbench):
        rated = read_rated(bench.data(FILE), threshold=config.threshold)
        self.split: Split = split_rated(rated)
        texts = (one.text for one in self.split.train)
        self.vocabulary = Vocabulary(texts, min_count=config.min_count)
        encoded = (self.vocabulary.encode(s, length=config.length) for s in self.split)
        self.train, self.validation, self.test = encoded


def label_logits(model: MambaLM, batch: Encoded) -> Float[Array, "b 2"]:
    """Return the logits of the two labels as next tokens, read at the ends."""
    x = model.embed(batch.tokens)
    return read_logits(model, x, batch.query)[:, np.array(LABELS)]


def label_loss(model: MambaLM, batch: Encoded) -> Float[Array, ""]:
    """Return the mean cross-entropy, in nats, of the right label among the two."""
    logits = label_logits(model, batch)
    return jnp.mean(
        optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    )


def predict(
    model: MambaLM, encoded: Encoded, *, batch: int = 120
) -> Float[np.ndarray, "b 2"]:
    """Return the logits of the two labels of many sentences, a batch at a time."""
    graphdef, state = nnx.split(model)
    found = []
    for start in range(0, len(encoded.tokens), batch):
        part = slice(start, start + batch)
        tokens, query = encoded.tokens[part], encoded.query[part]
        found.append(np.asarray(_predict(graphdef, state, tokens, query)))
    return np.concatenate(found)


@partial(jax.jit, static_argnames="graphdef")
def _predict(graphdef, state, tokens, query):
    return label_logits(nnx.merge(graphdef, state), Encoded(tokens, query, query, []))


def train_classifier(
    config: TextConfig, bench: Workbench, corpus: Corpus, seed: int
) -> MambaLM:
    """Train a classifier, or read the one that was trained before."""
    sizes = MambaConfig(
        vocab_size=len(corpus.vocabulary),
        d_model=config.d_model,
        num_layers=config.num_layers,
    )
    settings = TrainConfig(
        config.steps,
        config.batch,
        config.length,
        config.learning_rate,
        warmup=config.steps // 10,
        weight_decay=config.weight_decay,
        seed=seed,
        save_every=100,
    )

    def draw(step):
        rng = np.random.default_rng((seed, step))
        chosen = rng.integers(0, len(corpus.train.labels), config.batch)
        dropped = drop_words(corpus.train.take(chosen), rng, config.most_dropped)
        return dropped._replace(words=[])

    model = new_model(sizes, seed)
    return bench.train(f"seed-{seed}", model, label_loss, draw, settings)
