"""Does a trained channel count in a row, as it can, and does attention fail to?"""

import dataclasses
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from jmamba.attention import counting_channel, hidden_attention, run_lengths
from jmamba.models.vim.model import count_parameters
from jmamba.ops import selective_scan
from jmamba.recipes.count_in_row.counters import KINDS, Counter, count, counting_loss
from jmamba.recipes.workbench import Workbench
from jmamba.report.figures.canvas import color_bar, frame, lower_triangle, new_figure
from jmamba.training.classification import Labelled
from jmamba.training.loop import TrainConfig
from jmamba.training.memory import training_bytes


@dataclasses.dataclass(frozen=True)
class CountingConfig:
    """Settings of the experiment.

    Attributes:
      d_model, d_state: sizes of the models.
      steps, batch, learning_rate: of the training.
      length: bits of a string in training.
      tested: bits of a string in the tests.
      strings: how many are tested of each length.
      seeds: of weights and data, one model each.
    """

    d_model: int = 16
    d_state: int = 4
    steps: int = 600
    batch: int = 64
    learning_rate: float = 1e-2
    length: int = 32
    tested: tuple[int, ...] = (32, 64, 128)
    strings: int = 512
    seeds: tuple[int, ...] = (0, 1, 2)

    def least_bytes(self) -> int:
        """Return the bytes of memory that the recipe takes at least.

        It trains, and draws the strings of each test at once.
        """
        weights = 6 * self.d_model**2 + 2 * self.d_model * self.d_state
        values = self.batch * self.length * self.d_model
        tests = 8 * self.strings * max(self.tested)
        return max(training_bytes(weights, values), tests)


SIZES = {
    "quick": CountingConfig(steps=200, strings=64, seeds=(0,)),
    "cpu": CountingConfig(),
    "large": CountingConfig(
        d_model=64, d_state=16, steps=20_000, tested=(32, 64, 128, 1024),
        seeds=(0, 1, 2, 3, 4),
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
    """Train models of each kind, test them on longer strings, compare their maps."""
    models = {
        kind: [_train(kind, seed, config, bench) for seed in config.seeds]
        for kind in KINDS
    }
    tests = {
        length: draw_strings(config.strings, length, seed=(1, length))
        for length in config.tested
    }
    counters = {
        "construction": [_construct],
        **{
            kind: [partial(count, model) for model in of] for kind, of in models.items()
        },
        "best guess without order": [best_without_order],
    }
    sizes = {kind: f"{count_parameters(of[0]):,}" for kind, of in models.items()}
    rows = []
    for name, of in counters.items():
        found = bench.once(
            f"shares {name}",
            lambda of=of: [_measure(one, tests, config.length) for one in of],
        )
        cells = [_say(shares) for shares in zip(*found, strict=True)]
        rows.append([name, sizes.get(name, ""), *cells])
    columns = ["model", "parameters", *(f"{length} bits" for length in tests),
               f"runs above {config.length}"]  # fmt: skip
    bench.write_table("Ones whose run is counted right", columns, rows)
    bench.write_text(_LEGEND.format(length=config.length, longest=max(tests)))
    bench.write_figure(
        "maps",
        _draw_maps({kind: of[0] for kind, of in models.items()}),
        "What counts: each row is a bit that reads, each column a bit that is read",
    )


_LEGEND = """
In percent of the ones in strings drawn anew, after rounding to the nearest whole; mean
over seeds, in brackets the lowest and the highest. Training strings have {length} bits.
The last column is of runs above {length} in strings of {longest}. Construction: one
channel with one state whose weights are written down. Linear attention: the Mamba with
A = 0. The best guess knows the bit, its place and the number of ones before it; no
model without positions that sums over earlier tokens can expect more. The models learn
small errors rather than hits, so that those that cannot count stay below it.
"""


def _train(kind: str, seed: int, config: CountingConfig, bench: Workbench) -> Counter:
    settings = TrainConfig(
        config.steps,
        config.batch,
        config.length,
        config.learning_rate,
        warmup=config.steps // 20,
        weight_decay=0.0,
        seed=seed,
    )

    def draw(step):
        bits = draw_strings(config.batch, config.length, seed=(0, seed, step))
        runs = run_lengths(bits).astype(np.float32)
        return Labelled(jnp.asarray(bits), jnp.asarray(runs))

    model = Counter(kind, config.d_model, config.d_state, rngs=nnx.Rngs(seed))
    key = f"{kind.replace(' ', '-')}-{seed}"
    return bench.train(key, model, counting_loss, draw, settings)


def _construct(bits: Bits) -> Float[np.ndarray, "b l"]:
    return np.asarray(selective_scan(*counting_channel(bits)[:7]).y[..., 0])


def _measure(counter, tests: dict[int, Bits], trained: int) -> list[float]:
    """Return the share of ones counted right at each length, and that of long runs."""
    shares, long = [], 0.0
    for bits in tests.values():
        runs = run_lengths(bits)
        right = np.round(np.asarray(counter(bits))) == runs
        shares.append(float(right[bits == 1].mean()))
        beyond = right[runs > trained]
        long = float(beyond.mean()) if beyond.size else float("nan")
    return [*shares, long]


def _say(shares: tuple[float, ...]) -> str:
    low, mean, high = (100 * f(shares) for f in (min, np.mean, max))
    return f"{mean:.1f}" if len(shares) == 1 else f"{mean:.1f} [{low:.1f}, {high:.1f}]"


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
