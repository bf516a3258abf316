"""What one step of training tells the outside."""

import math
from typing import NamedTuple


class StepReport(NamedTuple):
    """What one step tells the outside.

    Attributes:
      step: which, from 1 on.
      loss: of its batch, in nats.
      gradient_norm: of all gradients together, before they are clipped.
      learning_rate: that it took.
      held_out: what an evaluation behind the step found; None where there was none.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    held_out: float | None = None

    @property
    def bits_per_token(self) -> float:
        """The loss in bits instead of nats."""
        return self.loss / math.log(2)
