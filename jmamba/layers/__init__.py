"""The parts that models are stacked from, and the seam between layers and analyses."""

from jmamba.layers.block import Block as Block
from jmamba.layers.block import BlockOutput as BlockOutput
from jmamba.layers.freezing import MAMBA_LRP as MAMBA_LRP
from jmamba.layers.freezing import NOTHING as NOTHING
from jmamba.layers.freezing import UNIFIED as UNIFIED
from jmamba.layers.freezing import Frozen as Frozen
from jmamba.layers.mixer import Convolution as Convolution
from jmamba.layers.mixer import Mixer as Mixer
from jmamba.layers.mixer import Projection as Projection
from jmamba.layers.model import LayeredModel as LayeredModel
from jmamba.layers.norm import Precision as Precision
from jmamba.layers.norm import RMSNorm as RMSNorm
from jmamba.layers.recurrence import directions_of as directions_of
from jmamba.layers.recurrence import run_recurrence as run_recurrence
from jmamba.layers.recurrence import states_after as states_after
from jmamba.layers.sizes import HeadSizes as HeadSizes
from jmamba.layers.sizes import MixerSizes as MixerSizes
from jmamba.layers.stack import PLACES as PLACES
from jmamba.layers.stack import Passed as Passed
from jmamba.layers.stack import Run as Run
from jmamba.layers.stack import run_layers as run_layers
from jmamba.layers.stack import walk as walk
from jmamba.types import BidirectionalRecurrence as BidirectionalRecurrence
from jmamba.types import LayerCache as LayerCache
from jmamba.types import Recurrence as Recurrence
