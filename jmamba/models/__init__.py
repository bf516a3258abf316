"""The models, and what makes an architecture known that is not in the package."""

from jmamba.models.architecture import Architecture as Architecture
from jmamba.models.architecture import BareFiles as BareFiles
from jmamba.models.architecture import architecture_of as architecture_of
from jmamba.models.architecture import find_architecture as find_architecture
from jmamba.models.architecture import register as register
from jmamba.models.features import Features as Features
from jmamba.models.features import extract_features as extract_features
