"""Do explanations of a text find the word that is known to decide?"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jmamba.evaluation import retrieval_scores
from jmamba.models.mamba.config import MambaConfig
from jmamba.models.mamba.model import MambaLM
from jmamba.models.vim.model import count_parameters
from jmamba.recipes.planted_text.findings import write_found
from jmamba.recipes.planted_text.tasks import LONGEST, TASKS, TOKENS, Planted, plant
from jmamba.recipes.text.baselines import MODEL_FREE, model_free
from jmamba.recipes.text.checks import UNTRAINED
from jmamba.recipes.text.figures import draw_sentence
from jmamba.recipes.text.methods import Method, all_explanations, explain_all
from jmamba.recipes.text.readings import READINGS
from jmamba.recipes.text.sentences import Encoded, drop_words
from jmamba.recipes.text.sentiment import label_loss, predict
from jmamba.recipes.workbench import Workbench, part_name
from jmamba.training.config import TrainConfig
from jmamba.training.language import new_model
from jmamba.training.memory import mamba_training_bytes


@dataclasses.dataclass(frozen=True)
class PlantedConfig:
    """Settings of the planted tasks.

    Attributes:
      seeds: of the models; each is trained and explained.
      d_model, num_layers: of the models.
      steps, batch, learning_rate: of their training.
      most_dropped: up to this share of a training sentence's words is unknown.
      training, validation, test: sentences of each split, the same for all seeds.
    """

    seeds: tuple = (0, 1, 2, 3, 4)
    d_model: int = 24
    num_layers: int = 3
    steps: int = 500
    batch: int = 32
    learning_rate: float = 4e-3
    most_dropped: float = 0.3
    training: int = 4000
    validation: int = 20
    test: int = 60

    def least_bytes(self) -> int:
        """Return the bytes of memory that the recipe takes at least."""
        sizes = MambaConfig(
            vocab_size=TOKENS, d_model=self.d_model, num_layers=self.num_layers
        )
        held = 4 * (self.training + self.validation + self.test) * LONGEST
        return max(held, mamba_training_bytes(sizes, self.batch, LONGEST))


SIZES = {
    "quick": PlantedConfig(
        seeds=(0, 1), d_model=16, num_layers=2, steps=60, training=500, validation=8,
        test=12,
    ),
    "cpu": PlantedConfig(),
    "large": PlantedConfig(
        seeds=tuple(range(10)), d_model=128, num_layers=6, steps=5000,
        training=50_000, validation=500, test=2000,
    ),
}  # fmt: skip


def run(config: PlantedConfig, bench: Workbench) -> None:
    """Train classifiers on each task and see which words explanations rank first."""
    for name, task in TASKS.items():
        splits = {
            "train": plant(name, config.training, seed=0, train=True),
            "validation": plant(name, config.validation, seed=1),
            "test": plant(name, config.test, seed=2),
        }
        facts, scores, models = [], {}, []
        for seed in config.seeds:
            models.append(_train(name, config, bench, splits["train"].encoded, seed))
            facts.append(_measure_model(name, models[-1], splits, bench, seed))
            for method, found in _score(name, models[-1], splits, bench, seed).items():
                scores.setdefault(method, []).append(found)
        columns = ["seed", "parameters", "right in training sentences",
                   "right in test sentences"]  # fmt: skip
        bench.write_table(f"{name}: {task.rule}", columns, facts)
        write_found(name, scores, bench)
        _draw_example(name, models[0], splits["test"], bench)


def _train(
    name: str, config: PlantedConfig, bench: Workbench, train: Encoded, seed: int
) -> MambaLM:
    settings = TrainConfig(
        config.steps,
        config.batch,
        LONGEST,
        config.learning_rate,
        warmup=config.steps // 10,
        seed=seed,
    )

    def draw(step):
        rng = np.random.default_rng((seed, step))
        chosen = rng.integers(0, len(train.labels), config.batch)
        dropped = drop_words(train.take(chosen), rng, config.most_dropped)
        return dropped._replace(words=[])

    model = new_model(_sizes(config.d_model, config.num_layers), seed)
    return bench.train(f"{name}-{seed}", model, label_loss, draw, settings)


def _sizes(d_model: int, num_layers: int) -> MambaConfig:
    return MambaConfig(vocab_size=TOKENS, d_model=d_model, num_layers=num_layers)


def _measure_model(name, model, splits, bench: Workbench, seed: int) -> list:
    """Return a row on the classifier: does it go by the deciding word?"""

    def right(part: Encoded) -> float:
        return float(np.mean(predict(model, part).argmax(axis=1) == part.labels))

    shares = bench.once(
        f"right-{name}-{seed}",
        lambda: [right(splits["train"].encoded), right(splits["test"].encoded)],
    )
    return [seed, f"{count_parameters(model):,}", *(f"{100 * x:.1f} %" for x in shares)]


def _score(name, model, splits, bench: Workbench, seed: int) -> dict[str, Any]:
    """Return the scores of every method with one model, as JSON can hold them."""
    free = model_free(splits["train"].encoded, TOKENS, seed)
    methods = {**free, **all_explanations()}
    other = new_model(_sizes(model.config.d_model, model.config.num_layers),
                      seed + UNTRAINED)  # fmt: skip
    found = {}
    for done, (method, explanation) in enumerate(methods.items()):
        bench.show(f"explaining {name} {seed}", done, len(methods))
        found[method] = bench.once(
            f"{name}-{seed}-{part_name(method)}",
            lambda e=explanation, m=method: {
                "validation": score_words(
                    e, model, splits["validation"], m in MODEL_FREE
                ),
                "test": score_words(e, model, splits["test"], m in MODEL_FREE),
                "random weights": score_words(
                    e, other, splits["test"], m in MODEL_FREE
                ),
                "other class": score_words(
                    e, model, against(splits["test"]), m in MODEL_FREE
                ),
            },
        )
    bench.show(f"explaining {name} {seed}", len(methods), len(methods))
    return found


def against(planted: Planted) -> Planted:
    """Return sentences of which the other class is explained."""
    encoded = planted.encoded
    return planted._replace(encoded=encoded._replace(labels=1 - encoded.labels))


def score_words(
    explanation: Method, model: MambaLM, planted: Planted, as_it_is: bool = False
) -> Mapping[str, dict[str, list[float]]]:
    """Explain sentences and say how the deciding word ranks, in each reading.

    Args:
      explanation: what ranks the words.
      model: what is explained.
      planted: the sentences.
      as_it_is: whether the ranking has one reading only, as those without a model do.

    Returns:
      reading -> "first", the chance that the deciding word is ranked first, and "auc",
      the chance that it is ranked above another word, of each sentence.
    """
    relevance = explain_all(explanation, model, planted.encoded)
    found = {}
    for reading, read in READINGS.items():
        if as_it_is and found:
            break
        ranks = retrieval_scores(
            read(relevance)[:, None], planted.gold[:, None], k=1,
            seen=planted.ranked[:, None],
        )  # fmt: skip
        found[reading] = {"first": ranks.recall.tolist(), "auc": ranks.auc.tolist()}
    return found


def _draw_example(name: str, model: MambaLM, planted: Planted, bench) -> None:
    """Draw the first test sentence of at most 12 words by every method."""
    short = int(np.flatnonzero(planted.encoded.query <= 12)[0])
    count = int(planted.encoded.query[short])
    relevance = {
        method: explain_all(explanation, model, planted.encoded)[short, :count].tolist()
        for method, explanation in all_explanations().items()
    }
    place = int(planted.gold[short].argmax())
    words = [
        f"[{word}]" if i == place else word
        for i, word in enumerate(planted.encoded.words[short])
    ]
    bench.write_figure(
        f"{name}-example",
        draw_sentence(words, relevance),
        f"{name}: the first test sentence of at most 12 words by every method, with "
        "the first model; the deciding word stands in brackets. Relevance to its class "
        "over the largest magnitude in the row.",
    )
