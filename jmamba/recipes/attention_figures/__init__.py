"""The figures of the hidden attention paper, of models that are at hand."""

from jmamba.recipes.attention_figures.recipe import SIZES as SIZES
from jmamba.recipes.attention_figures.recipe import run as run
