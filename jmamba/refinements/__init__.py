"""Pieces that research hands to a mixer: gates of chosen signs, sorted tokens."""

from jmamba.refinements.gates import SemidefiniteGates as SemidefiniteGates
from jmamba.refinements.gates import SymmetricGates as SymmetricGates
from jmamba.refinements.gates import make_gates as make_gates
from jmamba.refinements.signs import GateSigns as GateSigns
from jmamba.refinements.sorting import Sorting as Sorting
from jmamba.refinements.sorting_choices import SortingChoices as SortingChoices
