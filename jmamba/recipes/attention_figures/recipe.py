"""The figures of the hidden attention paper, of models that are at hand."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jmamba.embedded import load_embedded, load_embedded_vim
from jmamba.evaluation import rank_correlation
from jmamba.models.mamba.model import MambaLM
from jmamba.models.vim.model import count_parameters
from jmamba.recipes.attention_figures.byte_attention import (
    GLOBAL,
    LOCAL,
    Reach,
    channel_maps,
    coarse_map,
    depth_maps,
    depths,
    far_share,
    head_maps,
    reach_of_channels,
    reach_of_heads,
)
from jmamba.recipes.attention_figures.byte_transformer import (
    BYTES,
    ByteTransformer,
    TransformerConfig,
    byte_loss,
    look,
    measure_bits,
)
from jmamba.recipes.attention_figures.class_token_bias import NEAR, measure_bias
from jmamba.recipes.attention_figures.figures import (
    draw_class_bias,
    draw_depth_rows,
    draw_distances,
    draw_long_maps,
    draw_map_grid,
)
from jmamba.recipes.image_classifiers import VisionConfig, train_vim
from jmamba.recipes.pictures import load_pictures
from jmamba.recipes.workbench import Workbench
from jmamba.training.config import TrainConfig
from jmamba.training.data import ByteSplits, read_bytes, sample_windows, split_bytes
from jmamba.training.memory import training_bytes

FILE = "enwik8.gz"
MAP_SIDE = 128
"""Rows and columns of the maps of long texts."""
SMALL_VIM = VisionConfig(
    side=32, patch_size=4, d_model=32, num_layers=4, batch=16, learning_rate=2e-3
)
"""The Vims that are trained for the place of their class token."""


@dataclasses.dataclass(frozen=True)
class FiguresConfig:
    """Settings of the figures.

    Attributes:
      d_model, num_layers, num_heads: of the Transformer.
      steps, batch, length, learning_rate: of its training.
      shown: bytes of the text whose attention is drawn.
      windows: texts over which distances are averaged.
      long: bytes of the long text, a multiple of 128.
      trained_length: bytes of the texts that the embedded model was trained on, up to
        a multiple of 128.
      vim_steps: of the training of small Vims, whose class tokens stand at two places.
      images: over which their attention is averaged.
    """

    d_model: int = 64
    num_layers: int = 6
    num_heads: int = 4
    steps: int = 1000
    batch: int = 8
    length: int = 128
    learning_rate: float = 3e-3
    shown: int = 64
    windows: int = 16
    long: int = 2048
    trained_length: int = 384
    vim_steps: int = 300
    images: int = 64

    def least_bytes(self) -> int:
        """Return the bytes of memory that the recipe takes at least.

        It trains the Transformer, draws the attention of all its heads, and holds
        texts and pictures over which it averages.
        """
        m, layers, heads = self.d_model, self.num_layers, self.num_heads
        values = self.batch * self.length * (layers * m + BYTES)
        averaged = self.windows * self.length * m + self.images * 3 * SMALL_VIM.side**2
        drawn = layers * heads * self.shown**2 + max(self.long, self.trained_length) * m
        trained = training_bytes(12 * layers * m**2, values)
        return max(trained, 4 * averaged, 4 * drawn)


SIZES = {
    "quick": FiguresConfig(
        d_model=16, num_layers=4, steps=20, windows=2, long=512, vim_steps=20, images=8
    ),
    "cpu": FiguresConfig(),
    "large": FiguresConfig(
        d_model=256, steps=20_000, batch=32, length=320, windows=64, vim_steps=5000
    ),
}


def run(config: FiguresConfig, bench: Workbench) -> None:
    """Train what is set beside the embedded model, and draw all figures."""
    splits = split_bytes(read_bytes(bench.data(FILE)))
    mamba, _ = load_embedded()
    transformer = train_transformer(config, splits, bench)
    windows = sample_windows(
        splits.test, batch=config.windows, length=config.length - 1, seed=0, step=0
    )
    _describe(mamba, transformer, windows, config.steps, bench)
    channels = reach_of_channels(mamba, windows)
    heads = reach_of_heads(transformer, windows)
    text = splits.test[: config.shown].astype(np.int32)
    _write_maps(mamba, transformer, text, (channels, heads), bench)
    _write_depth(mamba, transformer, text, bench)
    _write_distances(channels, heads, config.length, bench)
    _write_long(mamba, splits, config, bench)
    _write_class_bias(config, bench)


def train_transformer(
    config: FiguresConfig, splits: ByteSplits, bench: Workbench
) -> ByteTransformer:
    """Train the Transformer, or read the one that was trained before."""
    sizes = TransformerConfig(config.d_model, config.num_layers, config.num_heads)
    settings = TrainConfig(
        config.steps,
        config.batch,
        config.length,
        config.learning_rate,
        warmup=config.steps // 10,
        save_every=100,
    )

    def draw(step):
        windows = sample_windows(
            splits.train, batch=config.batch, length=config.length, seed=0, step=step
        )
        return jnp.asarray(windows)

    model = ByteTransformer(sizes, rngs=nnx.Rngs(0))
    return bench.train("transformer", model, byte_loss, draw, settings)


def _describe(mamba: MambaLM, transformer, windows, steps: int, bench) -> None:
    bits = bench.once("bits", lambda: measure_bits(transformer, windows))
    c = transformer.config
    bench.write_text(
        f"The Mamba is the embedded one, {mamba.config.num_layers} layers of "
        f"{mamba.config.d_inner} channels, {count_parameters(mamba):,} parameters. The "
        f"Transformer beside it is only there for its attention: {c.num_layers} layers "
        f"of {c.num_heads} heads, width {c.d_model}, {count_parameters(transformer):,} "
        f"parameters, trained on the same bytes (enwik8) for {steps} steps only, to "
        f"{bits:.2f} bits per byte on {len(windows)} test texts of "
        f"{windows.shape[1]} bytes."
    )


def _write_maps(mamba, transformer, text, reach, bench: Workbench) -> None:
    rows = {}
    ours, theirs = (depths(m.config.num_layers) for m in (mamba, transformer))
    for share, a, b in zip((25, 50, 75), ours, theirs, strict=True):
        rows[f"{share} % depth"] = [
            *channel_maps(mamba, text, a, reach[0]),
            *head_maps(transformer, text, b, reach[1]),
        ]
    names = ["Mamba: local", "Mamba: global", "Mamba: mean", "Transformer: local",
             "Transformer: global", "Transformer: mean"]  # fmt: skip
    bench.write_figure(
        "attention-maps",
        draw_map_grid(rows, names, split=3),
        f"Attention at a quarter, half and three quarters of the depth, over the first "
        f"{len(text)} bytes of the test text; rows read columns. Local and global are "
        "the channels a tenth of the way from either end by mean distance, and the "
        "nearest and the farthest head: chosen by rule, not by hand. Mamba: |α|. Each "
        "map ends at its 99 % quantile.",
    )


def _write_depth(mamba, transformer, text, bench: Workbench) -> None:
    heads = np.asarray(look(transformer, jnp.asarray(text)[None]))[:, 0].mean(axis=1)
    bench.write_figure(
        "attention-depth",
        draw_depth_rows({"Mamba": depth_maps(mamba, text), "Transformer": list(heads)}),
        "The same text through all layers: mean of |α| over channels, mean over heads.",
    )


def _write_distances(
    channels: Reach, heads: Reach, length: int, bench: Workbench
) -> None:
    bench.write_figure(
        "channel-distances",
        draw_distances(channels.distance, heads.distance, length),
        f"How far back the last of {length} bytes reads in each channel and head: mean "
        "distance weighed by |α|, mean over test texts.",
    )
    near, far = 4, length / 4
    assert channels.similarity is not None
    rows = [
        [s, float(np.median(d)), f"{100 * (d < near).mean():.0f}",
         f"{100 * (d > far).mean():.0f}", float(cosine)]
        for s, (d, cosine) in enumerate(
            zip(channels.distance, channels.similarity, strict=True)
        )
    ]  # fmt: skip
    columns = ["layer", "median distance", f"% of channels under {near}",
               f"% over {far:.0f}", "mean cosine of tokens"]  # fmt: skip
    bench.write_table("Channels by layer, Mamba", columns, rows)
    places = np.arange(len(channels.distance), dtype=float)
    trend = rank_correlation(places, np.median(channels.distance, axis=1))
    other = rank_correlation(
        np.arange(len(heads.distance), dtype=float), np.median(heads.distance, axis=1)
    )
    spread = np.quantile(channels.distance, [LOCAL, GLOBAL], axis=1)
    bench.write_text(
        "The paper sees early layers near the diagonal and later ones reach farther. "
        f"Here the rank correlation of layer and median distance is {trend:.2f} for "
        f"Mamba ({say_direction(trend)}) and {other:.2f} for the Transformer "
        f"({say_direction(other)}): undecided here, with one model of each kind. "
        "Within a layer of Mamba the farthest tenth of the channels reads "
        f"{float(np.median(spread[1] / spread[0])):.0f} times as far as the nearest "
        "tenth (median over layers)."
    )


def say_direction(correlation: float) -> str:
    """Return whether a trend over layers goes the paper's way, which is upward.

    Examples:
      >>> [say_direction(c) for c in (0.9, -0.9, 0.2)]
      ['same', 'other way', 'neither way']
    """
    if abs(correlation) < 0.5:
        return "neither way"
    return "same" if correlation > 0 else "other way"


def _write_long(mamba, splits: ByteSplits, config, bench: Workbench) -> None:
    layers = depths(mamba.config.num_layers)
    maps, lengths = {}, (config.trained_length, config.long)
    for length in lengths:
        text = splits.test[:length].astype(np.int32)
        maps[f"{length} bytes"] = [coarse_map(mamba, text, s, MAP_SIDE) for s in layers]
    bench.write_figure(
        "attention-long",
        draw_long_maps(maps, layers),
        "Magnitude of the mean of α over channels on a logarithmic scale, at about the "
        f"length the model was trained on and at {lengths[1]} bytes.",
    )
    text = splits.test[: config.long].astype(np.int32)
    far = config.trained_length
    shares = bench.once("far", lambda: far_share(mamba, text, far).tolist())
    rows = [[s, f"{100 * share:.2f}"] for s, share in enumerate(shares)]
    columns = ["layer", f"% of its weight that is {far} bytes back or more"]
    bench.write_table(f"What the last of {config.long} bytes reads", columns, rows)


def _write_class_bias(config: FiguresConfig, bench: Workbench) -> None:
    shipped = load_embedded_vim().model
    large = load_pictures("emoji", shipped.config.image_size, bench)
    models = {"embedded, middle": (shipped, large)}
    small = dataclasses.replace(SMALL_VIM, steps=config.vim_steps)
    pictures = load_pictures("emoji", small.side, bench)
    for place in ("middle", "first"):
        key = f"vim-{place}"
        model = train_vim(small, pictures, bench, 0, key=key, class_token=place)
        models[f"small, {place}"] = model, pictures
    grids, rows = {}, []
    for name, (model, shown) in models.items():
        bias = measure_bias(model, shown.test(config.images).images)
        count = len(bias.grid)
        chosen = sorted({0, count - 2, count - 1})
        grids[name] = {f"layer {s}": bias.grid[s] for s in chosen}
        rows += [[name, s, float(bias.near[s])] for s in chosen]
    bench.write_figure(
        "class-token-bias",
        draw_class_bias(grids),
        f"Mean |α| of the class token's row over {config.images} pictures with objects "
        "at random places, in the first and the last two layers.",
    )
    columns = [
        "Vim, class token",
        "layer",
        f"weight of patches within {NEAR} over the mean",
    ]
    bench.write_table("Class tokens and the patches next to them", columns, rows)
    least = min(row[2] for row in rows)
    bench.write_text(
        "The paper sees patches near the class token dominate. Here those within "
        f"{NEAR} places get {least:.1f} times the mean weight or more, "
        f"{'in every layer shown' if least > 1 else 'so not in every layer'}: "
        "undecided here, with one seed of each model."
    )
