"""Do explanations of a text find the word that is known to decide?"""

from jmamba.recipes.planted_text.recipe import SIZES as SIZES
from jmamba.recipes.planted_text.recipe import run as run
