"""Which explanations of a sentiment classifier are faithful, and to which words."""

from jmamba.recipes.text.recipe import SIZES as SIZES
from jmamba.recipes.text.recipe import run as run
