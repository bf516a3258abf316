"""What steps measured, told in their order and some steps late."""

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from jmamba.training.divergence import Divergence
from jmamba.training.interrupts import hold_interrupts
from jmamba.training.reports import StepReport
from jmamba.training.states import TrainingStates
from jmamba.training.step import StepValues

LATE = 2
"""Steps that are begun before what an earlier one measured is waited for."""


class _Begun(NamedTuple):
    """A step that was begun."""

    step: int
    rate: float
    values: StepValues


class StepNews:
    """Takes what steps will have measured, and tells it when it is there.

    Devices would else be idle between steps, while the host reads a loss.

    Args:
      watch: sees losses, and whether they are numbers.
      states: of the run.
      report: is told.
    """

    def __init__(
        self,
        watch: Divergence,
        states: TrainingStates,
        report: Callable[[StepReport], None],
    ):
        self.watch, self.states, self.report = watch, states, report
        self.begun: deque[_Begun] = deque()

    def add(self, step: int, rate: float, values: StepValues) -> None:
        """Take a step that was begun, and tell of those that are late."""
        for x in values:
            x.copy_to_host_async()
        self.begun.append(_Begun(step, rate, values))
        self.tell(LATE)

    def are_finite(self) -> bool:
        """Wait for what is not told yet, and say whether all of it is finite."""
        return all(math.isfinite(float(x)) for one in self.begun for x in one.values)

    def tell(self, left: int = 0, held_out: float | None = None) -> None:
        """Tell of all steps but so many of the last.

        Args:
          left: steps that are not waited for.
          held_out: what an evaluation behind the last step found.

        Raises:
          FloatingPointError: what a step measured is not finite.
        """
        while len(self.begun) > left:
            with hold_interrupts():
                self._tell(self.begun.popleft(), held_out)

    def _tell(self, one: _Begun, held_out: float | None) -> None:
        loss, norm = map(float, one.values)
        self.watch.check(one.step - 1, {"loss": loss, "gradient": norm}, self.states)
        self.watch.see(one.step, loss)
        found = None if self.begun else held_out
        self.report(StepReport(one.step, loss, norm, one.rate, found))


def is_time(step: int, every: int) -> bool:
    """Say whether something that is done every so many steps is done behind this one.

    Examples:
      >>> [is_time(step, 2) for step in (1, 2, 3, 4)], is_time(4, 0)
      ([False, True, False, True], False)
    """
    return every > 0 and step % every == 0
