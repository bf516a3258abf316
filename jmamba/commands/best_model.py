"""The model that predicted best what is held out, kept beside the last one."""

import math
from pathlib import Path
from typing import Any

from jmamba.commands.processes import is_first_process
from jmamba.training.metrics import METRICS, read_metrics
from jmamba.training.processes import all_agree, gather_model

BEST = "best"
"""Folder of the model, in float32."""


class BestModel:
    """Keeps the model of the step whose evaluation found least.

    Args:
      out: folder of the run, whose metrics say what was found before.
      tokenizer: that is stored with the model, or None.
    """

    def __init__(self, out: Path, tokenizer: str | None):
        self.out, self.tokenizer = out, tokenizer
        rows = read_metrics(out / METRICS).values() if (out / BEST).is_dir() else ()
        found = (row["held_out"] for row in rows if "held_out" in row)
        self.least = min(found, default=math.inf)

    def __call__(self, model: Any, found: float) -> None:
        """Take a model and what its evaluation found; all processes do."""
        is_better = found < self.least or not is_first_process()
        if not all_agree(is_better):  # the first one decides, whose files count
            return
        self.least = found
        whole = gather_model(model)
        if whole is not None:
            whole.save_pretrained(
                self.out / BEST, tokenizer=self.tokenizer, overwrite=True
            )
