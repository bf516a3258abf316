"""The paper's two tables on pictures with known objects, Vim beside ViT."""

from jmamba.recipes.vision.recipe import SIZES as SIZES
from jmamba.recipes.vision.recipe import run as run
