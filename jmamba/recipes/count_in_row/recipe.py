"""Does a trained channel count in a row, as it can, and does attention fail to?"""

import dataclasses
import itertools
from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from jmamba.attention import counting_channel, hidden_attention, run_lengths
from jmamba.evaluation import compare_over_seeds
from jmamba.figures.canvas import color_bar, frame, lower_triangle, new_figure
from jmamba.models.vim.model import count_parameters
from jmamba.ops import selective_scan
from jmamba.recipes.count_in_row.counters import KINDS, LOSSES, Counter, count
from jmamba.recipes.verdicts import decide
from jmamba.recipes.workbench import Workbench, part_name
from jmamba.training.classification import Labelled
from jmamba.training.config import TrainConfig
from jmamba.training.memory import training_bytes


@dataclasses.dataclass(frozen=True)
class CountingConfig:
    """Settings of the experiment.

    Attributes:
      d_model, d_state: sizes of the models.
      steps: of the training; each number of them is a training of its own.
      batch, learning_rate: of the training.
      length: bits of a string in training.
      tested: bits of a string in the tests.
      strings: how many are tested of each length.
      seeds: of weights and data, one model each.
    """

    d_model: int = 16
    d_state: int = 4
    steps: tuple[int, ...] = (150, 400)
    batch: int = 32
    learning_rate: float = 1e-2
    length: int = 32
    tested: tuple[int, ...] = (32, 64, 128)
    strings: int = 256
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    def least_bytes(self) -> int:
        """Return the bytes of memory that the recipe takes at least.

        It trains, and draws the strings of each test at once.
        """
        weights = 6 * self.d_model**2 + 2 * self.d_model * self.d_state
        values = self.batch * self.length * self.d_model
        tests = 8 * self.strings * max(self.tested)
        return max(training_bytes(weights, values), tests)


SIZES = {
    "quick": CountingConfig(steps=(100, 200), strings=64, seeds=(0, 1)),
    "cpu": CountingConfig(),
    "large": CountingConfig(
        d_model=64, d_state=16, steps=(2000, 6000, 20_000), batch=64,
        tested=(32, 64, 128, 1024), strings=512, seeds=tuple(range(10)),
    ),
}  # fmt: skip

SHOWN = "11011110011111111101010111111101"
"""The string whose maps are drawn."""

Bits = Int[np.ndarray, "b l"]


def draw_strings(strings: int, length: int, *, seed: tuple[int, ...]) -> Bits:
    """Draw bit strings, each with its own share of ones.

    The share is uniform in [0, 1]: with fair bits alone long runs would never occur.

    Examples:
      >>> draw_strings(2, 5, seed=(0,)).shape
      (2, 5)
    """
    rng = np.random.default_rng(seed)
    share = rng.random((strings, 1))
    return (rng.random((strings, length)) < share).astype(np.int32)


def best_without_order(bits: Bits) -> Bits:
    """Return the most likely runs for one who does not see the order of earlier bits.

    Given how many of the t bits before x[t] = 1 are ones, c, all their orders are
    equally likely, and C(t - r, c - r + 1) of these make a run of r if c < t. That does
    not grow with r, so that 1 is a best guess; if c = t the run is t + 1 for certain.
    No model that sums over earlier tokens without positions has a higher expected
    accuracy.

    Examples:
      >>> best_without_order(np.array([[1, 1, 0, 1, 1, 1]])).tolist()
      [[1, 2, 0, 1, 1, 1]]
    """
    sure = np.logical_and.accumulate(bits == 1, axis=1)
    places = np.arange(1, bits.shape[1] + 1)[None]
    return np.where(sure, places, bits)


def run(config: CountingConfig, bench: Workbench) -> None:
    """Train models of each kind and loss, test them on longer strings, draw maps."""
    tests = {
        length: draw_strings(config.strings, length, seed=(1, length))
        for length in config.tested
    }
    shares, parameters, shown = {}, {}, {}
    for steps, loss, kind in itertools.product(config.steps, LOSSES, KINDS):
        name, models = (kind, loss, steps), []
        for seed in config.seeds:
            models.append(_train(kind, loss, steps, seed, config, bench))
        shown[name], parameters[name] = models[0], count_parameters(models[0])
        shares[name] = [
            bench.once(
                f"hits-{part_name(f'{kind} {loss}')}-{steps}-{seed}",
                partial(_measure, partial(count, model), tests, config.length),
            )
            for seed, model in zip(config.seeds, models, strict=True)
        ]
    for name, counter in UNTRAINED.items():
        of = bench.once(
            f"hits-{part_name(name)}",
            partial(_measure, counter, tests, config.length),
        )
        shares[name] = [of] * len(config.seeds)
    _write_shares(shares, parameters, config, bench)
    _write_verdicts(shares, config, bench)
    bench.write_figure(
        "maps",
        _draw_maps({
            kind: shown[kind, "errors", max(config.steps)] for kind in KINDS
        }),
        "What counts: each row is a bit that reads, each column a bit that is read. "
        "Models that learned small errors, the longest training",
    )  # fmt: skip


_LEGEND = """
In percent of the ones in strings drawn anew; in brackets 95 % of a bootstrap over seeds
and strings, both drawn again. Training strings have {length} bits. The last column is
of runs above {length} in strings of {longest}. Models that learn errors give a number,
which is rounded to the nearest whole; those that learn hits give logits of the counts
up to {length}, by cross-entropy, so that they cannot say a longer run. Construction:
one channel with one state whose weights are written down. Linear attention: the Mamba
with A = 0. The best guess knows the bit, its place and the number of ones before it; no
model without positions that sums over earlier tokens can expect more.
"""


def _write_shares(shares, parameters, config: CountingConfig, bench) -> None:
    rows = []
    for name, found in shares.items():
        trained = isinstance(name, tuple)
        head = name if trained else (name, "", "")
        size = f"{parameters[name]:,}" if trained else ""
        places = [*map(str, config.tested), "long"]
        rows.append([*head, size, *(_say(found, place) for place in places)])
    columns = ["model", "learns", "steps", "parameters",
               *(f"{length} bits" for length in config.tested),
               f"runs above {config.length}"]  # fmt: skip
    bench.write_table("Ones whose run is counted right", columns, rows)
    bench.write_text(_LEGEND.format(length=config.length, longest=max(config.tested)))


def _write_verdicts(shares, config: CountingConfig, bench: Workbench) -> None:
    """Compare all kinds and losses with the best guess, after the longest training."""
    place, steps = str(config.tested[0]), max(config.steps)
    names = [(kind, loss, steps) for kind in KINDS for loss in LOSSES]
    guess = shares["best guess without order"]
    differences = [
        compare_over_seeds(_share_more, *_counts(shares[name], place),
                           _counts(guess, place)[0])
        for name in names
    ]  # fmt: skip
    rows = [
        [*name[:2], "{:+.1f} [{:.1f}, {:.1f}]".format(*(100 * x for x in one[:3])), so]
        for name, one, so in zip(names, differences, decide(differences), strict=True)
    ]
    columns = ["model", "learns", "points over the best guess without order",
               "counts better"]  # fmt: skip
    bench.write_table(
        f"Against the best guess, {place} bits, {steps} steps", columns, rows
    )
    bench.write_text(
        f"After Holm's correction over {len(rows)} differences; fails: worse than the "
        "best guess."
    )


def _train(
    kind: str, loss: str, steps: int, seed: int, config: CountingConfig, bench
) -> Counter:
    settings = TrainConfig(
        steps,
        config.batch,
        config.length,
        config.learning_rate,
        warmup=steps // 20,
        weight_decay=0.0,
        seed=seed,
    )

    def draw(step):
        bits = draw_strings(config.batch, config.length, seed=(0, seed, step))
        runs = run_lengths(bits).astype(np.float32)
        return Labelled(jnp.asarray(bits), jnp.asarray(runs))

    classes = config.length + 1 if loss == "hits" else None
    model = Counter(kind, config.d_model, config.d_state, classes, rngs=nnx.Rngs(seed))
    key = f"{kind.replace(' ', '-')}-{loss}-{steps}-{seed}"
    return bench.train(key, model, LOSSES[loss], draw, settings)


def _construct(bits: Bits) -> Float[np.ndarray, "b l"]:
    return np.asarray(selective_scan(*counting_channel(bits)[:7]).y[..., 0])


def _measure(counter, tests: dict[int, Bits], trained: int) -> dict[str, list]:
    """Return how many ones of each string are counted right, and how many there are.

    Returns:
      The bits of a string, or "long" for runs longer than trained ones in the longest
      strings -> [right, ones], of each string.
    """
    found = {}
    for length, bits in tests.items():
        runs = run_lengths(bits)
        right = np.round(np.asarray(counter(bits))) == runs
        for place, of in ((str(length), bits == 1), ("long", runs > trained)):
            found[place] = [(right & of).sum(1).tolist(), of.sum(1).tolist()]
    return found


def _counts(found: Sequence[dict], place: str) -> list[Int[np.ndarray, "s b"]]:
    """Return how many ones are right, and how many there are, of strings with any."""
    right, ones = (np.array([one[place][part] for one in found]) for part in (0, 1))
    some = ones[0] > 0
    return [right[:, some], ones[:, some]]


def _share(right, ones) -> float:
    return float(right.sum() / ones.sum())


def _share_more(right, ones, other) -> float:
    return _share(right - other, ones)


def _say(found: Sequence[dict], place: str) -> str:
    right, ones = _counts(found, place)
    if ones.shape[1] < 2:
        return "–"
    share = compare_over_seeds(_share, right, ones)
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * x for x in share[:3]))


UNTRAINED = {
    "construction": _construct,
    "best guess without order": best_without_order,
    "always one": np.ones_like,
}
"""What counts without training: as well as can be, as sums can, and without looking."""


def _draw_maps(models: dict[str, Counter]):
    """Draw the construction's hidden attention beside what the models look at."""
    bits = np.array([[int(bit) for bit in SHOWN]], np.int32)
    maps = {"construction": hidden_attention(counting_channel(bits))[:, 0]}
    maps |= {kind: model.attend(jnp.asarray(bits)) for kind, model in models.items()}
    figure = new_figure(3.1 * len(maps), 3.2)
    for ax, (name, found) in zip(
        figure.subplots(1, len(maps)), maps.items(), strict=True
    ):
        matrix = lower_triangle(np.asarray(found[0]))
        most = float(abs(matrix).max())
        image = ax.imshow(matrix, cmap="RdBu_r", vmin=-most, vmax=most)
        frame(ax, name, sides=("left", "bottom"))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_ticks(range(len(SHOWN)), list(SHOWN), fontsize=5)
        label = "attention" if name == "softmax attention" else "share of the count"
        color_bar(figure, image, ax, label, shrink=0.7)
    return figure
