"""The paper's two tables on pictures with known objects, Vim beside ViT."""

from jmamba.recipes.vision_models import Pictures, VisionConfig, train_vim, train_vit
from jmamba.recipes.workbench import Workbench

SIZES = {
    "quick": VisionConfig(
        pictures="fashion", side=28, patch_size=4, d_model=32, num_layers=3,
        num_heads=2, steps=120, measured=200, explained=32,
    ),
    "cpu": VisionConfig(),
    "large": VisionConfig(
        d_model=192, num_layers=12, d_state=16, steps=40_000, batch=128,
        seeds=(0, 1, 2), measured=5000, explained=2000,
    ),
}  # fmt: skip


def run(config: VisionConfig, bench: Workbench) -> None:
    """Train both models and score what explains them."""
    pictures = Pictures(config, bench)
    for seed in config.seeds:
        train_vim(config, pictures, bench, seed)
        train_vit(config, pictures, bench, seed)
