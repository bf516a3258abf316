"""Does reordering tokens by importance help a Vision Mamba?"""

import dataclasses
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jmamba.models.vim.model import Vim, count_parameters
from jmamba.recipes.curves import Curve, draw_curves, smooth
from jmamba.recipes.image_classifiers import (
    VisionConfig,
    labelled,
    train_vim,
    vim_config,
)
from jmamba.recipes.pictures import Pictures, load_pictures
from jmamba.recipes.seeds import say_mean, write_pairs
from jmamba.recipes.sweeps import choose_rates, sweep_rates, write_sweep
from jmamba.recipes.workbench import Workbench
from jmamba.training.classification import (
    Labelled,
    classification_loss,
    is_right,
)


@dataclasses.dataclass(frozen=True)
class ReorderingConfig(VisionConfig):
    """Sizes of the reordering recipe: those of a Vim, and its learning rates.

    Attributes:
      learning_rates: peaks of the cosine, of which each variant gets the one with the
        highest accuracy on validation pictures, from the first seed.
    """

    learning_rates: tuple = (1.5e-3, 3e-3, 6e-3)


SIZES = {
    "quick": ReorderingConfig(
        pictures="fashion", side=28, patch_size=7, d_model=16, num_layers=2, d_state=4,
        steps=30, learning_rates=(3e-3, 6e-3), measured=100, seeds=(0, 1),
    ),
    "cpu": ReorderingConfig(
        pictures="fashion", side=28, patch_size=4, d_model=32, num_layers=4, d_state=8,
        steps=500, measured=5000, seeds=(0, 1, 2, 3, 4),
    ),
    "large": ReorderingConfig(
        pictures="fashion", side=28, patch_size=2, d_model=192, num_layers=12,
        d_state=16, steps=40_000, batch=128, learning_rates=(5e-4, 1e-3, 2e-3),
        measured=10_000, seeds=(0, 1, 2, 3, 4),
    ),
}  # fmt: skip

_CORRECTED = {"reorder": "corrected", "reorder_normalise": True}
VARIANTS: dict[str, dict] = {
    "not reordered": {},
    "official": {"reorder": "official"},
    "corrected": _CORRECTED,
    "corrected, hard": {**_CORRECTED, "reorder_hard": True},
    "shuffled": {"reorder": "corrected", "reorder_by": "random"},
}
"""Name -> fields of `VimConfig`. The official mode has tau = 1, scores as they come,
and leaves tokens where they were sorted to; the corrected one scales scores and puts
tokens back; the control takes one random order in place of scores."""


PAIRS = (
    ("not reordered", "official"),
    ("not reordered", "corrected"),
    ("not reordered", "corrected, hard"),
    ("not reordered", "shuffled"),
    ("shuffled", "corrected, hard"),
)
"""Of each pair: how many points of accuracy more has the second?"""


def run(config: ReorderingConfig, bench: Workbench) -> None:
    """Choose each variant's learning rate, train it from all seeds, compare."""
    pictures = load_pictures(config.pictures, config.side, bench)
    validation = labelled(pictures.validation(config.measured))
    test, first = labelled(pictures.test(config.measured)), config.seeds[0]

    def train(name: str, seed: int, rate: float) -> Vim:
        settings = dataclasses.replace(config, learning_rate=rate)
        key, fields = _run_name(name, seed, rate), _of(config, VARIANTS[name])
        return train_vim(settings, pictures, bench, seed, key=key, **fields)

    def validate(name: str, rate: float) -> float:
        right = partial(_accuracy, train(name, first, rate), validation)
        return bench.once(f"validation {_run_name(name, first, rate)}", right)

    sweep = sweep_rates([*VARIANTS], config.learning_rates, validate)
    rates, accuracy = choose_rates(sweep), {}
    for name, rate in rates.items():
        found = []
        for seed in config.seeds:
            right = partial(_accuracy, train(name, seed, rate), test)
            found.append(bench.once(f"accuracy {_run_name(name, seed, rate)}", right))
        accuracy[name] = np.array(found)
    costs = bench.once("costs", partial(_measure_costs, config, pictures))
    losses = {
        name: [
            np.array(bench.losses(_run_name(name, seed, rate))) for seed in config.seeds
        ]
        for name, rate in rates.items()
    }
    write_sweep(sweep, "share of validation pictures", first, bench)
    _write_tables(config, accuracy, losses, costs, bench)
    curves = [
        smooth(Curve(name, runs), config.steps // 20) for name, runs in losses.items()
    ]
    bench.write_figure(
        "learning",
        draw_curves(curves, x="step", y="training loss, nats"),
        "Training loss, running mean; the band holds all seeds",
    )


def _run_name(name: str, seed: int, rate: float) -> str:
    return f"{_key(name)}-{seed}-{rate:g}"


def _key(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def _of(config: VisionConfig, fields: dict) -> dict:
    """Reorder two layers, the first and the middle one, where the official code does.

    It sorts in the first block of each of its two last stages.
    """
    if not fields:
        return {}
    return {**fields, "reorder_layers": (0, config.num_layers // 2)}


def _accuracy(model: Vim, batch: Labelled) -> float:
    return float(is_right(model, batch).mean())


def _measure_costs(config: VisionConfig, pictures: Pictures) -> dict:
    """Return milliseconds and bytes of a training step of each variant, in turn."""
    drawn = labelled(pictures.draw(config.batch, seed=0, step=0))
    batch, steps = jax.tree.map(jnp.asarray, drawn), {}
    for name, fields in VARIANTS.items():
        model = Vim(
            vim_config(config, pictures, **_of(config, fields)), rngs=nnx.Rngs(0)
        )
        steps[name] = (count_parameters(model), *_compile(model, batch))
    times = {name: [] for name in VARIANTS}
    for _ in range(9):
        for name, (_, step, _, state) in steps.items():
            start = time.perf_counter()
            jax.block_until_ready(step(state))
            times[name].append(time.perf_counter() - start)
    return {
        name: {
            "parameters": steps[name][0],
            "milliseconds": 1e3 * float(np.median(times[name])),
            "bytes": steps[name][2],
        }
        for name in VARIANTS
    }


def _compile(model: Vim, batch: Labelled):
    """Return a compiled loss with its gradient, its temporary bytes, its argument.

    Backends that do not tell the bytes give NaN.
    """
    graphdef, state = nnx.split(model)

    def loss(state):
        return classification_loss(nnx.merge(graphdef, state), batch)

    compiled = jax.jit(jax.value_and_grad(loss)).lower(state).compile()
    jax.block_until_ready(compiled(state))
    memory = compiled.memory_analysis()
    held = np.nan if memory is None else memory.temp_size_in_bytes
    return compiled, float(held), state


def _write_tables(config, accuracy, losses, costs, bench: Workbench) -> None:
    plain = next(iter(VARIANTS))
    early = slice(config.steps // 4, config.steps // 2)
    rows = []
    for name in VARIANTS:
        middle = np.array([np.mean(run[early]) for run in losses[name]])
        cost, base = costs[name], costs[plain]
        rows.append([
            name, say_mean(accuracy[name], scale=100.0, digits=1),
            say_mean(middle), f"{cost['parameters']:,}",
            f"{cost['milliseconds'] / base['milliseconds']:.2f}x",
            f"{cost['bytes'] / base['bytes']:.2f}x",
        ])  # fmt: skip
    columns = ["tokens", "accuracy, %", "loss in the second quarter", "parameters",
               "time of a step", "temporary memory"]  # fmt: skip
    bench.write_table("Reordering tokens by importance", columns, rows)
    bench.write_text(
        "Mean over seeds, in brackets each seed. Time and memory are of loss and "
        "gradient, relative to the model that does not reorder, in one run. Two layers "
        "reorder."
    )
    more = {(a, b): accuracy[b] - accuracy[a] for a, b in PAIRS}
    write_pairs(more, "points of accuracy", bench, scale=100.0)
