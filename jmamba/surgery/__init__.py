"""Models made from other models."""

from jmamba.models.quantisation import quantise as quantise
from jmamba.surgery.polarisation import polarise_states as polarise_states
from jmamba.surgery.projection import ProjectedModel as ProjectedModel
from jmamba.surgery.projection import project_from_pretrained as project_from_pretrained
from jmamba.surgery.projection import project_gates as project_gates
from jmamba.surgery.projection import with_gates as with_gates
from jmamba.surgery.rebuilding import as_free as as_free
