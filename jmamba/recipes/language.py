"""Does excluding the convergent scenario help a language model?"""

import dataclasses
import math
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jmamba.models.mamba.config import MambaConfig
from jmamba.models.mamba.model import MambaLM
from jmamba.recipes.curves import Curve, draw_curves, smooth
from jmamba.recipes.seeds import paired_interval, say_mean
from jmamba.recipes.workbench import Workbench
from jmamba.training.bits_per_byte import bits_per_byte
from jmamba.training.data import ByteSplits, read_bytes, sample_windows, split_bytes
from jmamba.training.loop import TrainConfig, new_model, next_token_loss
from jmamba.training.memory import mamba_training_bytes


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """Sizes of the language recipe.

    Attributes:
      corpus: file of the data folder, or a path; plain or .gz. Its first 90 % are
        trained on, of its last 5 % `measured` bytes are measured.
      d_model, num_layers, d_state: of all models.
      steps: of training.
      batch: sequences per step.
      length: bytes per sequence.
      learning_rate: peak of the cosine.
      weight_decay: of projections.
      seeds: each variant is trained once for each; all variants of a seed see the same
        text in the same order.
      measured: bytes.
    """

    corpus: str = "enwik8.gz"
    d_model: int = 64
    num_layers: int = 3
    d_state: int = 16
    steps: int = 1000
    batch: int = 8
    length: int = 128
    learning_rate: float = 4e-3
    weight_decay: float = 0.1
    seeds: tuple = (0, 1, 2)
    measured: int = 200_000

    def least_bytes(self) -> int:
        """Return the bytes of memory that the recipe takes at least."""
        sizes = MambaConfig(
            vocab_size=256,
            d_model=self.d_model,
            num_layers=self.num_layers,
            d_state=self.d_state,
        )
        return mamba_training_bytes(sizes, self.batch, self.length)


SIZES = {
    "quick": LanguageConfig(
        d_model=32, num_layers=2, d_state=8, steps=60, seeds=(0, 1), measured=8000
    ),
    "cpu": LanguageConfig(),
    "large": LanguageConfig(
        d_model=512, num_layers=12, steps=30_000, batch=64, length=512,
        measured=5_000_000,
    ),
}  # fmt: skip


class Variant(NamedTuple):
    """A model of the comparison.

    Attributes:
      name: in tables.
      fields: of its `MambaConfig`.
    """

    name: str
    fields: dict


VARIANTS = {
    "free": Variant("free (plain Mamba)", {}),
    "pos": Variant("positive: diverges", {"definite": "pos"}),
    "neg": Variant("negative: converges", {"definite": "neg"}),
    "mixed": Variant("mixed, official scale", {"definite": "mixed"}),
    "mixed-equal": Variant(
        "mixed, equal scale", {"definite": "mixed", "equal_magnitudes": True}
    ),
}
"""The official mode "mixed" has no least |d|, as the other two have: its eigenvalues
are smaller, too. At equal scale only signs differ."""

PAIRS = (("pos", "neg"), ("pos", "mixed"), ("mixed", "neg"), ("pos", "mixed-equal"),
         ("mixed-equal", "neg"), ("free", "pos"), ("free", "neg"))  # fmt: skip
"""Of each pair: by how much does the second need more bits?"""


def run(config: LanguageConfig, bench: Workbench) -> None:
    """Train all variants from all seeds and compare them."""
    splits = split_bytes(read_bytes(_find(config.corpus, bench)))
    bits = {key: [] for key in VARIANTS}
    for seed in config.seeds:
        for key in VARIANTS:
            model = train_variant(key, config, splits, bench, seed)
            measure = partial(_measure, model, splits, config)
            bits[key].append(bench.once(f"bits {key} {seed}", measure))
    _write_bits({key: np.array(found) for key, found in bits.items()}, bench)
    curves = [
        Curve(
            variant.name,
            [np.array(bench.losses(f"{key}-{s}")) / math.log(2) for s in config.seeds],
        )
        for key, variant in VARIANTS.items()
    ]
    bench.write_figure(
        "learning",
        draw_curves(
            [smooth(curve, config.steps // 50) for curve in curves],
            x="step", y="training loss, bits per byte",
        ),
        "Training loss, running mean; the band holds all seeds",
    )  # fmt: skip


def train_variant(
    key: str, config: LanguageConfig, splits: ByteSplits, bench: Workbench, seed: int
) -> MambaLM:
    """Train a variant, or read the one that was trained before."""
    model_config = MambaConfig(
        vocab_size=256,
        d_model=config.d_model,
        num_layers=config.num_layers,
        d_state=config.d_state,
        **VARIANTS[key].fields,
    )
    settings = TrainConfig(
        steps=config.steps,
        batch=config.batch,
        length=config.length,
        learning_rate=config.learning_rate,
        warmup=max(1, config.steps // 20),
        weight_decay=config.weight_decay,
        seed=seed,
        save_every=max(1, config.steps // 4),
    )

    def draw(step):
        windows = sample_windows(
            splits.train, batch=config.batch, length=config.length, seed=seed, step=step
        )
        return jnp.asarray(windows)

    model = new_model(model_config, seed)
    return bench.train(f"{key}-{seed}", model, next_token_loss, draw, settings)


def _find(corpus: str, bench: Workbench):
    return corpus if "/" in corpus else bench.data(corpus)


def _measure(model: MambaLM, splits: ByteSplits, config: LanguageConfig) -> float:
    return bits_per_byte(model, splits.test[: config.measured], streams=8)


def _write_bits(bits: dict[str, np.ndarray], bench: Workbench) -> None:
    rows = [
        [VARIANTS[key].name, say_mean(found), f"{2 ** found.mean():.3f}"]
        for key, found in bits.items()
    ]
    columns = ["gates", "bits per byte", "perplexity per byte"]
    bench.write_table("Excluding the convergent scenario", columns, rows)
    rows = [
        [VARIANTS[a].name, VARIANTS[b].name, *paired_interval(bits[b] - bits[a])]
        for a, b in PAIRS
    ]
    columns = ["first", "second", "bits that the second needs more", "so"]
    bench.write_table("Paired differences", columns, rows)
    bench.write_text(
        "Mean over seeds, in brackets each seed. Differences are paired by seed, with "
        "a 95 % interval of Student's t; the paper's claim is that positive gates beat "
        "mixed ones, and mixed ones negative ones."
    )
