"""Training: data, optimizer, loop and measurement."""

from jmamba.training.batches import TextBatch as TextBatch
from jmamba.training.batches import text_loss as text_loss
from jmamba.training.classification import Labelled as Labelled
from jmamba.training.classification import classification_loss as classification_loss
from jmamba.training.config import TrainConfig as TrainConfig
from jmamba.training.image_folder import ImageFolder as ImageFolder
from jmamba.training.language import new_model as new_model
from jmamba.training.language import train as train
from jmamba.training.loop import fit as fit
from jmamba.training.optimizer import make_optimizer as make_optimizer
from jmamba.training.optimizer import make_schedule as make_schedule
from jmamba.training.reports import StepReport as StepReport
from jmamba.training.sources import Source as Source
from jmamba.training.sources import draw_from as draw_from
from jmamba.training.token_rows import TokenRows as TokenRows
