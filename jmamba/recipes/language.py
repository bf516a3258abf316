"""Does excluding the convergent scenario help a language model?"""

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jmamba.models.mamba.config import MambaConfig
from jmamba.models.mamba.model import MambaLM
from jmamba.models.vim.model import count_parameters
from jmamba.recipes.curves import Curve, draw_curves, smooth
from jmamba.recipes.seeds import say_mean, write_pairs
from jmamba.recipes.sweeps import choose_rates, sweep_rates, write_sweep
from jmamba.recipes.workbench import Workbench
from jmamba.training.bits_per_byte import bits_per_byte
from jmamba.training.config import TrainConfig
from jmamba.training.data import ByteSplits, read_bytes, sample_windows, split_bytes
from jmamba.training.language import new_model, next_token_loss
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
      learning_rates: peaks of the cosine, of which each variant gets the one with the
        fewest bits on the validation text, from the first seed.
      weight_decay: of projections.
      seeds: each variant is trained once for each; all variants of a seed see the same
        text in the same order.
      measured: bytes, of the validation and of the test text.
    """

    corpus: str = "enwik8.gz"
    d_model: int = 64
    num_layers: int = 3
    d_state: int = 16
    steps: int = 1000
    batch: int = 8
    length: int = 128
    learning_rates: tuple = (2e-3, 4e-3, 8e-3)
    weight_decay: float = 0.1
    seeds: tuple = (0, 1, 2, 3, 4)
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
        d_model=32, num_layers=2, d_state=8, steps=60, learning_rates=(4e-3, 8e-3),
        seeds=(0, 1), measured=8000,
    ),
    "cpu": LanguageConfig(),
    "large": LanguageConfig(
        d_model=512, num_layers=12, steps=30_000, batch=64, length=512,
        learning_rates=(3e-4, 1e-3, 3e-3), measured=5_000_000,
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
    """Choose each variant's learning rate, train it from all seeds, compare."""
    splits = split_bytes(read_bytes(_find(config.corpus, bench)))
    first = config.seeds[0]

    def validate(key: str, rate: float) -> float:
        model = train_variant(key, config, splits, bench, first, rate)
        measure = partial(_measure, model, splits.validation, config)
        return -bench.once(f"validation {key} {rate:g}", measure)

    sweep = sweep_rates([*VARIANTS], config.learning_rates, validate)
    rates = choose_rates(sweep)
    bits, parameters = {}, {}
    for key, rate in rates.items():
        found = []
        for seed in config.seeds:
            model = train_variant(key, config, splits, bench, seed, rate)
            measure = partial(_measure, model, splits.test, config)
            found.append(bench.once(f"bits {key} {seed}", measure))
            parameters[key] = count_parameters(model)
        bits[key] = np.array(found)
    named = {VARIANTS[key].name: scores for key, scores in sweep.items()}
    write_sweep(named, "bits per byte of the validation text", first, bench)
    _write_bits(bits, parameters, bench)
    curves = [
        Curve(
            variant.name,
            [
                np.array(bench.losses(_run_name(key, s, rates[key]))) / math.log(2)
                for s in config.seeds
            ],
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
    key: str,
    config: LanguageConfig,
    splits: ByteSplits,
    bench: Workbench,
    seed: int,
    rate: float,
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
        learning_rate=rate,
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
    name = _run_name(key, seed, rate)
    return bench.train(name, model, next_token_loss, draw, settings)


def _run_name(key: str, seed: int, rate: float) -> str:
    return f"{key}-{seed}-{rate:g}"


def _find(corpus: str, bench: Workbench):
    return corpus if "/" in corpus else bench.data(corpus)


def _measure(model: MambaLM, text, config: LanguageConfig) -> float:
    return bits_per_byte(model, text[: config.measured], streams=8)


def _write_bits(
    bits: Mapping[str, Float[np.ndarray, "s"]],
    parameters: Mapping[str, int],
    bench: Workbench,
) -> None:
    rows = [
        [VARIANTS[key].name, f"{parameters[key]:,}", say_mean(found),
         f"{2 ** found.mean():.3f}"]
        for key, found in bits.items()
    ]  # fmt: skip
    columns = ["gates", "parameters", "bits per byte", "perplexity per byte"]
    bench.write_table("Excluding the convergent scenario", columns, rows)
    bench.write_text("Bits of the test text: mean over seeds, in brackets each seed.")
    pairs = {(VARIANTS[a].name, VARIANTS[b].name): bits[b] - bits[a] for a, b in PAIRS}
    write_pairs(pairs, "bits per byte", bench)
    bench.write_text(
        "The paper's claim is that positive gates beat mixed ones, and mixed ones "
        "negative ones: that the second needs more bits in the first five rows."
    )
