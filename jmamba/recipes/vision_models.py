"""The two classifiers that the vision recipes compare, and how they are trained."""

import dataclasses
from collections.abc import Callable

import numpy as np
from flax import nnx

from jmamba.models.images import normalise
from jmamba.models.vision import Vim
from jmamba.models.vision_config import VimConfig
from jmamba.recipes.emoji import CLASSES, Composites, compose, read_emoji
from jmamba.recipes.fashion import FILES, NAMES, read_fashion
from jmamba.recipes.vit import ViT, ViTConfig
from jmamba.recipes.workbench import Workbench
from jmamba.training.classification import Labelled, classification_loss
from jmamba.training.loop import TrainConfig

Draw = Callable[[int, int], Composites]
"""Makes (step, count) pictures to train on."""


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision recipe.

    Attributes:
      pictures: "emoji" over textures, or "fashion" for Fashion-MNIST.
      side: of the pictures, 28 for Fashion-MNIST.
      patch_size: side of a patch.
      d_model: width of both models.
      num_layers: blocks of both models.
      d_state: states per channel of the Vim.
      num_heads: attention heads of the ViT.
      mlp_ratio: of the ViT; 2 gives it the Vim's number of parameters.
      steps: of training.
      batch: pictures per step.
      learning_rate: peak of the cosine.
      weight_decay: of projections.
      seeds: one Vim and one ViT are trained for each.
      measured: test pictures for the accuracy.
      explained: test pictures whose explanations are scored.
    """

    pictures: str = "emoji"
    side: int = 64
    patch_size: int = 8
    d_model: int = 96
    num_layers: int = 6
    d_state: int = 8
    num_heads: int = 4
    mlp_ratio: int = 2
    steps: int = 6000
    batch: int = 32
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    seeds: tuple = (0,)
    measured: int = 1000
    explained: int = 200


class Pictures:
    """What the models are trained and tested on.

    Args:
      config: sizes; `pictures` says which data set.
      bench: knows where the files are.

    Raises:
      ValueError: a file is missing or cannot be read, or the data set is unknown.
    """

    def __init__(self, config: VisionConfig, bench: Workbench):
        self.config = config
        if config.pictures == "emoji":
            path = bench.data("emoji64.zip")
            self.names = tuple(CLASSES)
            known, new = read_emoji(path), read_emoji(path, held_out=True)
            self.known = lambda count, key: compose(
                known, count, side=config.side, key=key
            )
            self.new = lambda count: compose(new, count, side=config.side, key=(2, 0))
        elif config.pictures == "fashion":
            self.names, self.new = NAMES, None
            parts = {k: [bench.data(f) for f in FILES[k]] for k in FILES}
            self.parts = {k: read_fashion(*paths) for k, paths in parts.items()}
        else:
            raise ValueError(
                f"pictures={config.pictures!r}: give 'emoji' or 'fashion'."
            )

    def draw(self, seed: int, step: int) -> Labelled:
        """Return a batch to train on."""
        if self.config.pictures == "emoji":
            made = self.known(self.config.batch, (0, seed, step))
        else:
            made = _pick(self.parts["train"], self.config.batch, (seed, step))
        return Labelled(normalise(made.images), made.labels)

    def test(self, count: int) -> Composites:
        """Return pictures that were not trained on; emoji themselves were."""
        if self.config.pictures == "emoji":
            return self.known(count, (1, 0))
        return _pick(self.parts["test"], count, (1, 0))


def _pick(part: Composites, count: int, key) -> Composites:
    chosen = np.random.default_rng(list(key)).integers(len(part.labels), size=count)
    return Composites(*(array[chosen] for array in part))


def vim_config(config: VisionConfig, pictures: Pictures, **fields) -> VimConfig:
    """Return the configuration of a recipe's Vim, with further fields."""
    return VimConfig(
        d_model=config.d_model,
        num_layers=config.num_layers,
        d_state=config.d_state,
        num_classes=len(pictures.names),
        image_size=config.side,
        patch_size=config.patch_size,
        class_names=pictures.names,
        **fields,
    )


def train_vim(
    config: VisionConfig,
    pictures: Pictures,
    bench: Workbench,
    seed: int,
    *,
    key: str | None = None,
    **fields,
) -> Vim:
    """Train a Vim, or read the one that was trained before.

    Args:
      config, pictures: what to train on.
      bench: keeps the run.
      seed: of weights and pictures.
      key: name of the run; None for vim-seed.
      **fields: further fields of `VimConfig`.
    """
    model = Vim(vim_config(config, pictures, **fields), rngs=nnx.Rngs(seed))
    return _train(key or f"vim-{seed}", model, config, pictures, bench, seed)


def train_vit(
    config: VisionConfig, pictures: Pictures, bench: Workbench, seed: int
) -> ViT:
    """Train a ViT of the same width and depth, or read the one trained before."""
    vit_config = ViTConfig(
        d_model=config.d_model,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_ratio,
        num_classes=len(pictures.names),
        image_size=config.side,
        patch_size=config.patch_size,
    )
    model = ViT(vit_config, rngs=nnx.Rngs(seed))
    return _train(f"vit-{seed}", model, config, pictures, bench, seed)


def _train(key, model, config, pictures, bench, seed):
    settings = TrainConfig(
        steps=config.steps,
        batch=config.batch,
        learning_rate=config.learning_rate,
        warmup=max(1, config.steps // 20),
        weight_decay=config.weight_decay,
        seed=seed,
        save_every=max(1, config.steps // 20),
    )

    def draw(step):
        return pictures.draw(seed, step)

    return bench.train(key, model, classification_loss, draw, settings)
