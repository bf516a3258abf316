"""The figures of the hidden attention paper, drawn of models that are at hand."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from jmamba.recipes.byte_transformer import (
    ByteTransformer,
    TransformerConfig,
    byte_loss,
)
from jmamba.recipes.workbench import Workbench
from jmamba.training.data import ByteSplits, sample_windows
from jmamba.training.loop import TrainConfig


@dataclasses.dataclass(frozen=True)
class FiguresConfig:
    """Settings of the figures.

    Attributes:
      d_model, num_layers, num_heads: of the Transformer.
      steps, batch, length, learning_rate: of its training.
      shown: bytes of the text whose attention is drawn.
      windows: texts over which distances are averaged.
      long: bytes of the long text.
    """

    d_model: int = 64
    num_layers: int = 6
    num_heads: int = 4
    steps: int = 800
    batch: int = 8
    length: int = 128
    learning_rate: float = 3e-3
    shown: int = 64
    windows: int = 16
    long: int = 2048


SIZES = {
    "quick": FiguresConfig(d_model=16, num_layers=4, steps=20, windows=2, long=512),
    "cpu": FiguresConfig(),
    "large": FiguresConfig(d_model=256, steps=20_000, batch=32, length=320, windows=64),
}


def train_transformer(
    config: FiguresConfig, splits: ByteSplits, bench: Workbench
) -> ByteTransformer:
    """Train the Transformer, or read the one that was trained before."""
    sizes = TransformerConfig(
        config.d_model, config.num_layers, config.num_heads, config.length
    )
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
