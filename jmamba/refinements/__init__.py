"""Pieces that research hands to a mixer: gates of chosen signs, sorted tokens."""

from jmamba.refinements.definite import GateSigns as GateSigns
from jmamba.refinements.gates import SemidefiniteGates as SemidefiniteGates
from jmamba.refinements.gates import SymmetricGates as SymmetricGates
from jmamba.refinements.gates import make_gates as make_gates
from jmamba.refinements.sorting import Sorting as Sorting
from jmamba.refinements.sorting import SortingChoices as SortingChoices
