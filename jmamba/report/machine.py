"""What this machine runs jmamba with."""

import jax
from flax import nnx
from rich.console import Group
from rich.table import Table

from jmamba.report.environment import environment, lowering_platform
from jmamba_kernels.table import PLATFORMS, choose

REASONS = {
    "xla_loop": "a loop over tokens that keeps the state in cache: fastest on a CPU",
    "xla_chunked": "a parallel scan over chunks: few, large steps suit an accelerator",
    "pallas_tpu": "a kernel that keeps the state on the chip and fuses all around it",
    "reference": "the definition, step by step",
}
"""Why an implementation is the one to run; others are named only."""


def describe() -> Group:
    """Return versions, devices and implementations, ready to print."""
    here = environment()
    facts = _table("This machine")
    for device in jax.devices():
        facts.add_row("device", f"{device.device_kind} ({device})")
    facts.add_row("platform", f"{here['platform']} on {here['system']}")
    for name, version in here["versions"].items():
        facts.add_row(name, version)
    return Group(facts, "", implementations(), "", embedded_model())


def implementations() -> Table:
    """Return which implementation of the selective scan runs on which platform."""
    here = lowering_platform()
    table = _table("Selective scan: what runs where")
    for platform in PLATFORMS:
        name, _ = choose(None, platform)
        mark = "→" if platform == here else " "
        style = "bold" if platform == here else ""
        reason = REASONS.get(name, "the table's choice for this platform")
        table.add_row(f"{mark} {platform}", name, reason, style=style)
    return table


def embedded_model() -> Table:
    """Return the sizes of the model that comes with the package."""
    from jmamba.embedded import load_embedded
    from jmamba.embedded.loading import FOLDER

    model, tokenizer = load_embedded()
    config = model.config
    count = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    table = _table("Embedded model")
    table.add_row("tokens", f"{config.vocab_size} ({type(tokenizer).__name__})")
    table.add_row("layers", f"{config.num_layers} of width {config.d_model}")
    table.add_row("states", f"{config.d_state} for each of {config.d_inner} channels")
    table.add_row("parameters", f"{count:,}")
    card = FOLDER / "README.md"
    if card.is_file():
        rows = [
            row
            for row in card.read_text("utf-8").splitlines()
            if row.startswith("| result |")
        ]
        table.add_row(
            "result",
            "".join(rows).removeprefix("| result |").replace("*", "").strip(" |"),
        )
        table.add_row("card", str(card))
    return table


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        show_header=False,
        box=None,
        padding=(0, 2),
    )
