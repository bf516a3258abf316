"""What a training run is asked for."""

import dataclasses

import numpy as np

from jmamba.training.optimizer import check_optimizer

_WHOLE = ("steps", "batch", "length", "save_every", "accumulate", "warmup", "seed",
          "evaluate_every")  # fmt: skip
_POSITIVE = ("steps", "batch", "length", "save_every", "accumulate")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run.

    Attributes:
      steps: optimizer steps.
      batch: sequences or images per step.
      length: tokens per sequence; of no use to images.
      learning_rate: peak of the cosine schedule.
      warmup: steps of linear rise.
      weight_decay: of projection matrices.
      seed: of the initial weights and of the order of the data.
      save_every: steps between checkpoints of the whole training state.
      optimizer: by name, see `training.optimizer.make_optimizer`.
      clip: largest norm of the gradients.
      accumulate: parts of a batch that are computed one after the other; their
        gradients are those of the whole batch.
      average: weight of the past in a moving average of the weights, which is what
        training returns; 0 for the last weights themselves.
      evaluate_every: steps between evaluations, where `fit` is given one; 0 for none.

    Raises:
      ValueError: the numbers make no run, or there is no such optimizer.
    """

    steps: int
    batch: int
    length: int = 1
    learning_rate: float = 3e-3
    warmup: int = 200
    weight_decay: float = 0.1
    seed: int = 0
    save_every: int = 500
    optimizer: str = "adamw"
    clip: float = 1.0
    accumulate: int = 1
    average: float = 0.0
    evaluate_every: int = 0

    def __post_init__(self):
        """Check that the numbers make a run."""
        check_optimizer(self.optimizer)
        wrong = {}
        for name, value in vars(self).items():
            if name == "optimizer":
                continue
            kinds = (int, np.integer) if name in _WHOLE else (int, float, np.number)
            if isinstance(value, bool) or not isinstance(value, kinds):
                wrong[name] = value
            elif not int(name in _POSITIVE) <= value < 2**31:  # nor NaN
                wrong[name] = value
        for name in ("learning_rate", "clip"):
            if not wrong and not getattr(self, name) > 0:
                wrong = {name: getattr(self, name)}
        if not wrong and not self.warmup < self.steps:
            wrong = {"warmup": self.warmup}
        if not wrong and not self.average < 1:
            wrong = {"average": self.average}
        if not wrong and self.batch % self.accumulate:
            wrong = {"accumulate": self.accumulate}
        if wrong:
            raise ValueError(
                f"TrainConfig: {wrong} cannot be; steps (more than warmup), batch, "
                "length, learning_rate, clip, save_every and accumulate (a divisor of "
                "batch) must be positive, warmup, seed, weight_decay, evaluate_every "
                "and average (less than 1) at least 0, all below 2**31 and whole but "
                "for learning_rate, weight_decay, clip and average."
            )
