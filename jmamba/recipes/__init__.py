"""Experiments that run from one command: `jmamba reproduce NAME`."""

from jmamba.recipes.registry import RECIPES as RECIPES
from jmamba.recipes.registry import Recipe as Recipe
from jmamba.recipes.registry import load_recipe as load_recipe
from jmamba.recipes.workbench import Workbench as Workbench
