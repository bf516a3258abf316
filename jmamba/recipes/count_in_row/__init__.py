"""Does a trained channel count in a row, as it can, and does attention fail to?"""

from jmamba.recipes.count_in_row.recipe import SIZES as SIZES
from jmamba.recipes.count_in_row.recipe import run as run
