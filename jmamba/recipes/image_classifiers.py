"""The two classifiers that the vision recipes compare, and how they are trained."""

import dataclasses

from flax import nnx

from jmamba.models.vim.config import VimConfig
from jmamba.models.vim.images import normalise
from jmamba.models.vim.model import Vim
from jmamba.recipes.emoji import Composites
from jmamba.recipes.pictures import Pictures
from jmamba.recipes.vit import ViT, ViTConfig
from jmamba.recipes.workbench import Workbench
from jmamba.training.classification import Labelled, classification_loss
from jmamba.training.config import TrainConfig
from jmamba.training.memory import training_bytes


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision recipe.

    Attributes:
      pictures: a name in `PICTURES`.
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
      validated: pictures that readings are chosen on.
      removed: how many of both have patches removed.
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
    validated: int = 100
    removed: int = 100

    def least_bytes(self) -> int:
        """Return the bytes of memory that the recipe takes at least.

        It trains, and holds the pictures that are measured or explained.
        """
        m, pixels = self.d_model, 3 * self.side**2
        layer = 6 * m**2 + 2 * m * self.d_state
        image = pixels + (self.side // self.patch_size) ** 2 * self.num_layers * m
        tested = max(self.measured, self.explained) * pixels
        weights = self.num_layers * layer
        return max(training_bytes(weights, self.batch * image), 4 * tested)


def labelled(pictures: Composites) -> Labelled:
    """Return pictures as the models read them, with their classes."""
    return Labelled(normalise(pictures.images), pictures.labels)


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


def make_vim(config: VisionConfig, pictures: Pictures, seed: int, **fields) -> Vim:
    """Return a recipe's Vim with random weights, with further fields of its config."""
    return Vim(vim_config(config, pictures, **fields), rngs=nnx.Rngs(seed))


def make_vit(config: VisionConfig, pictures: Pictures, seed: int) -> ViT:
    """Return a ViT with random weights, of the same width and depth."""
    vit_config = ViTConfig(
        d_model=config.d_model,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_ratio,
        num_classes=len(pictures.names),
        image_size=config.side,
        patch_size=config.patch_size,
    )
    return ViT(vit_config, rngs=nnx.Rngs(seed))


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
    model = make_vim(config, pictures, seed, **fields)
    return _train(key or f"vim-{seed}", model, config, pictures, bench, seed)


def train_vit(
    config: VisionConfig, pictures: Pictures, bench: Workbench, seed: int
) -> ViT:
    """Train a ViT of the same width and depth, or read the one trained before."""
    model = make_vit(config, pictures, seed)
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
        return labelled(pictures.draw(config.batch, seed=seed, step=step))

    return bench.train(key, model, classification_loss, draw, settings)
