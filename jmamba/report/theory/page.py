"""Pictures of the theory of token dynamics, F1 to F7, with a page that judges them."""

import dataclasses
import os
import time
from html import escape
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jmamba.dynamics import (
    AttentionOverTime,
    Convergence,
    Explosion,
    GrowthFactors,
    PhaseDiagram,
    PlanePaths,
    SlowDivergence,
    portray_attention,
    portray_blow_up,
    portray_convergence,
    portray_growth_factors,
    portray_phases,
    portray_plane,
    portray_slow_divergence,
)
from jmamba.progress import Progress, ignore
from jmamba.report.environment import environment
from jmamba.report.folder import Writer
from jmamba.report.page import definitions, document, figure_section
from jmamba.report.theory.plates import PORTRAIT_PLATES
from jmamba_kernels.versions import enable_x64

BLOW_UPS = (
    (1.0, (0.5, 0.6, 0.4, 0.7)),
    (1.0, (-0.5, -0.6, 0.8, -0.7)),
    (0.0, (0.5, 0.6, 0.4, 0.7)),
)
"""Step-size weights s and tokens of the runs that blow up."""


@dataclasses.dataclass(frozen=True)
class Portraits:
    """The runs behind the pictures.

    Attributes:
      convergence: runs that go to zero.
      slow: a run that diverges slowly.
      blow_ups: runs that blow up, see `BLOW_UPS`.
      phases: regimes of one token.
      plane: ways of tokens of two channels.
      attention: hidden attention over time.
      factors: how far later tokens lead in slow divergence.
      environment: versions, device and implementation.
      timings: seconds per figure.
    """

    convergence: Convergence
    slow: SlowDivergence
    blow_ups: tuple[Explosion, ...]
    phases: PhaseDiagram
    plane: dict[str, PlanePaths]
    attention: dict[str, AttentionOverTime]
    factors: GrowthFactors
    environment: dict[str, Any]
    timings: dict[str, float]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays to store, by name."""
        found = {
            "convergence": self.convergence._asdict(),
            "slow": self.slow._asdict(),
            "phases": self.phases._asdict(),
            "factors": self.factors._asdict(),
        }
        found |= {f"blow_up_{i}": run._asdict() for i, run in enumerate(self.blow_ups)}
        for i, paths in enumerate(self.plane.values()):
            found[f"plane_{i}"] = paths._asdict()
        for name, run in self.attention.items():
            found[f"attention_{name.replace(' ', '_')}"] = {"x": run.x, "P": run.P}
        return {
            f"{group}_{name}": np.asarray(array)
            for group, arrays in found.items()
            for name, array in arrays.items()
        }


def compute_portraits(
    progress: Progress = ignore,
    *,
    points: int = 24,
    rates: int = 13,
) -> Portraits:
    """Run everything that the pictures show, in float64.

    Args:
      progress: called as progress(stage, done, total).
      points: of each axis of the picture of regimes, an even number.
      rates: decay rates of the last picture, from 1/4 to 16.

    References:
      Vo et al., "Demystifying the Token Dynamics of Deep Selective State Space
      Models", arXiv 2410.03292, sections 3 and 4. Parameters are ours.
    """
    runs = {
        "convergence": portray_convergence,
        "slow": portray_slow_divergence,
        "blow_ups": lambda: tuple(portray_blow_up(s, x) for s, x in BLOW_UPS),
        "phases": lambda: portray_phases(points),
        "plane": portray_plane,
        "attention": portray_attention,
        "factors": lambda: portray_growth_factors(np.geomspace(0.25, 16.0, rates)),
    }
    found: dict[str, Any] = {}
    timings: dict[str, float] = {}
    with enable_x64():
        for done, (name, run) in enumerate(runs.items()):
            progress("running the systems", done, len(runs))
            start = time.perf_counter()
            found[name] = _on_host(run())
            timings[name] = round(time.perf_counter() - start, 3)
    return Portraits(**found, environment=environment(), timings=timings)


def _on_host(runs):
    """Return arrays as NumPy's; a dictionary keeps its order, which JAX would sort."""
    if isinstance(runs, dict):
        return {name: jax.device_get(run) for name, run in runs.items()}
    return jax.device_get(runs)


def draw_portraits(
    directory: str | os.PathLike = "jmamba-portraits",
    *,
    overwrite: bool = False,
    progress: Progress = ignore,
) -> Path:
    """Run the systems and write the seven pictures, their arrays and one page.

    Args:
      directory: where to; an earlier report there is replaced.
      overwrite: whether to write into a folder that holds something else.
      progress: called as progress(stage, done, total).

    Returns:
      The path of the page.

    Raises:
      ValueError: the directory is a file, holds something else or cannot be written.

    References:
      Vo et al., arXiv 2410.03292, sections 3 and 4.
    """
    return write_portraits(
        compute_portraits(progress), directory, overwrite=overwrite, progress=progress
    )


def portraits_page(portraits: Portraits, figures: dict[str, bytes]) -> str:
    """Return the page; it needs nothing but itself.

    Args:
      portraits: the runs.
      figures: PNG files by the name of their plate.
    """
    plates = [figure_section(p, figures[p.name], portraits) for p in PORTRAIT_PLATES]
    machine = dict(portraits.environment)
    versions = machine.pop("versions", {})
    seconds = {name: f"{value} s" for name, value in portraits.timings.items()}
    groups = {"Made on": machine, "Versions": versions, "Time": seconds}
    lists = "".join(
        f"<section><h3>{escape(name)}</h3><dl>{definitions(group)}</dl></section>"
        for name, group in groups.items()
    )
    body = f"""<section>
<h1>Token dynamics: what the theory says, and what happens</h1>
<p>The system of Vo et al., arXiv 2410.03292: tokens x move by dx/dt = F(x), F being one
selective scan without convolution, gate and norm. Parameters are ours; all runs are in
float64.</p>
</section>
<section>
{"".join(plates)}
</section>
<footer>
<h2>How this was made</h2>
<p>All arrays are in <a href="arrays.npz">arrays.npz</a>, versions and times in
<a href="summary.json">summary.json</a>.</p>
<div class="columns">{lists}</div>
</footer>"""
    return document("Token dynamics: theory and runs", body)


def portraits_summary(portraits: Portraits, files: list[str]) -> dict:
    """Return what was run and what came out, ready for JSON."""
    return {
        "made_by": "jmamba reproduce dynamics-figures",
        "blow_up_times": [float(run.end) for run in portraits.blow_ups],
        "blow_up_tokens": [int(run.token) for run in portraits.blow_ups],
        "environment": portraits.environment,
        "seconds": portraits.timings,
        "arrays": {
            name: {"shape": list(array.shape), "dtype": str(array.dtype)}
            for name, array in portraits.arrays().items()
        },
        "files": files,
    }


write_portraits = Writer(
    "jmamba-portraits",
    lambda report: PORTRAIT_PLATES,
    portraits_page,
    portraits_summary,
)
"""Writes the runs behind the theory's pictures."""
