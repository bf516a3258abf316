"""The theory of token dynamics in seven figures: does it do what the paper says?"""

import dataclasses

from jmamba.recipes.workbench import Workbench
from jmamba.report.theory.page import BLOW_UPS, compute_portraits, write_portraits
from jmamba.report.theory.plates import PORTRAIT_PLATES


@dataclasses.dataclass(frozen=True)
class PortraitConfig:
    """How closely to look.

    Attributes:
      phase_points: places of mu and of s x in the picture of regimes.
      growth_rates: decay rates at which the factors C of slow divergence are read.
    """

    phase_points: int = 24
    growth_rates: int = 13

    def least_bytes(self) -> int:
        """Return the bytes of memory that the recipe takes at least, one per place."""
        return 8 * (self.phase_points**2 + self.growth_rates)


SIZES = {
    "quick": PortraitConfig(8, 4),
    "cpu": PortraitConfig(),
    "large": PortraitConfig(60, 40),
}


def run(config: PortraitConfig, bench: Workbench) -> None:
    """Run the systems; leave the figures, the page and a table of blow-ups.

    Args:
      config: how closely to look.
      bench: where to leave them.

    References:
      Vo et al., arXiv 2410.03292, sections 3 and 4; parameters are ours.
    """
    portraits = compute_portraits(
        bench.show, points=config.phase_points, rates=config.growth_rates
    )
    rows = [
        [s, ", ".join(f"{v:g}" for v in x), f"{run.end:.8f}", run.token + 1]
        for (s, x), run in zip(BLOW_UPS, portraits.blow_ups, strict=True)
    ]
    bench.write_table("Blow-ups", ["s", "tokens", "T", "first token"], rows)
    page = write_portraits(portraits, bench.directory / "page", progress=bench.show)
    for plate in PORTRAIT_PLATES:
        picture = f"![{plate.title}](page/{plate.name}.png)"
        text = f"## {plate.title}\n\n{picture}\n\n{plate.caption}"
        bench.write_text(f"{text}\n\n`{plate.formula}`")
    bench.write_text(f"The same as one page: [{page.name}](page/{page.name})")
