"""Whether a run comes apart: said early, and stopped when nothing is left of it."""

import logging
import math
from collections import deque
from typing import Any

WINDOW = 25
"""Steps over which losses are averaged."""

_RATIO, _LEAST_RISE = 1.25, 0.1
_LOGGER = logging.getLogger("jmamba")


class Divergence:
    """Watches the losses of a run.

    It warns, once, when the mean loss of the last 25 steps is a quarter, and 0.1, above
    the least such mean: a run that comes apart does so many steps before its loss is no
    number.

    Args:
      learning_rate: peak of the schedule, for the message.

    Examples:
      >>> watch = Divergence(1e-3)
      >>> for step in range(50):
      ...     watch.see(step, 2.0 - step / 100)
      >>> watch.has_warned
      False
    """

    def __init__(self, learning_rate: float):
        self.learning_rate, self.has_warned = learning_rate, False
        self.last: deque[float] = deque(maxlen=WINDOW)
        self.least, self.least_step = math.inf, 0

    def see(self, step: int, loss: float) -> None:
        """Take the loss of a step."""
        self.last.append(loss)
        if len(self.last) < WINDOW:
            return
        mean = sum(self.last) / WINDOW
        if mean < self.least:
            self.least, self.least_step = mean, step
        is_high = mean > max(_RATIO * self.least, self.least + _LEAST_RISE)
        if is_high and not self.has_warned:
            self.has_warned = True
            _LOGGER.warning(
                "The mean loss of %d steps is %.3f at step %d, and was %.3f at step "
                "%d: the run may diverge. Lower the learning rate (now %g), or clip.",
                *(WINDOW, mean, step, self.least, self.least_step, self.learning_rate),
            )

    def check(self, step: int, values: dict[str, float], states: Any) -> None:
        """Raise unless all that a step measured is finite.

        Args:
          step: whose values they are.
          values: name -> value.
          states: of the run, which know what was saved.

        Raises:
          FloatingPointError: one is not.
        """
        broken = [name for name, x in values.items() if not math.isfinite(x)]
        if not broken:
            return
        saved = (
            "no state was saved"
            if states.saved is None
            else f"the last good state, after step {states.saved}, is in "
            f"{states.directory}"
        )
        raise FloatingPointError(
            f"The {broken[0]} is {values[broken[0]]} at step {step}. Lower the "
            f"learning rate (now {self.learning_rate}); {saved}."
        )
