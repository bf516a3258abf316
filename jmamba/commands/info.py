"""The command `jmamba info`: what this machine runs jmamba with; what a model is."""

from typing import Annotated

import jax
import jax.numpy as jnp
import typer
from flax import nnx
from rich.console import Console, Group
from rich.table import Table

from jmamba.commands.check import check_scan, show_checks
from jmamba.commands.options import Revision, check_revision
from jmamba.figures.labels import shorten
from jmamba.files.errors import CheckpointError
from jmamba.files.hub import locate_files
from jmamba.files.json_files import read_json
from jmamba.layers.model import LayeredModel
from jmamba.models.architecture import find_architecture
from jmamba.models.classes import Classes
from jmamba.models.skeleton import make_skeleton
from jmamba.report.environment import environment, lowering_target
from jmamba.report.outcomes import label_class
from jmamba.report.size import size_of
from jmamba_kernels.selective_scan.table import Target, choose
from jmamba_kernels.ssd.table import choose_ssd

REASONS = {
    "xla_loop": "one token after another",
    "xla_chunked": "scan over chunks",
    "reference": "the definition",
    "pallas_tpu": "kernel in VMEM",
    "pallas_triton": "kernel in registers",
    "pallas_mosaic_gpu": "kernel in registers",
}
"""What each implementation is."""

TARGETS = {
    "CPU": Target("cpu"),
    "TPU": Target("tpu"),
    "TPUs, split by XLA": Target("tpu", parts=2),
    "older NVIDIA (T4)": Target("cuda", 7.5),
    "Ampere, Ada (A100, L4)": Target("cuda", 8.0),
    "Hopper and newer (H100)": Target("cuda", 9.0),
    "AMD GPU": Target("rocm"),
}
"""Kinds of device between which the choice differs."""


def info_command(
    model: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint folder or Hub id to describe, whose weights are not read; "
            "the embedded model if left out."
        ),
    ] = None,
    revision: Revision = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Compare the scan that runs here with its definition."
        ),
    ] = False,
) -> None:
    """Show versions, devices, which scan runs on them, and what a model is."""
    console = Console(highlight=False)
    if model is None:
        check_revision(revision)
        about = embedded_model()
    else:
        about = checkpoint_model(model, revision)
    console.print(describe(about))
    if check:
        checks = check_scan()
        console.print("", show_checks(checks))
        if not all(one.is_passed for one in checks):
            raise typer.Exit(1)


def describe(about: Table) -> Group:
    """Return versions, devices and implementations, ready to print.

    Args:
      about: what is said of a model.
    """
    here = environment()
    facts = _table("This machine")
    for device in jax.devices():
        facts.add_row("device", f"{device.device_kind} ({device})")
    facts.add_row("platform", f"{here['platform']} on {here['system']}")
    for name, version in here["versions"].items():
        facts.add_row(name, version)
    kept = jax.config.values["jax_compilation_cache_dir"]
    facts.add_row("programs kept in", kept or "memory only")
    return Group(facts, "", implementations(), "", about)


def implementations() -> Table:
    """Return which implementation of a recurrence runs on which device."""
    here = _kind(lowering_target())
    table = _table("Selective scan: what runs where")
    for kind, target in TARGETS.items():
        name, _ = choose(None, target)
        mark, style = ("→", "bold") if kind == here else (" ", "")
        table.add_row(f"{mark} {kind}", name, REASONS[name], style=style)
    name, _ = choose_ssd(None, lowering_target())
    table.add_row("  Mamba-2, everywhere", name, "products of matrices")
    return table


def _kind(target: Target) -> str:
    """Return the kind of device a target is."""
    capability = min(max(target.capability or 0, 7.5), 9.0)
    kinds = {
        kind
        for kind, one in TARGETS.items()
        if one.platform == target.platform
        and one.is_partitioned == target.is_partitioned
        and int(one.capability or capability) == int(capability)
    }
    return next(iter(kinds), "")


def model_facts(title: str, model: LayeredModel) -> Table:
    """Return what kind of model one is, and its sizes.

    Args:
      title: of the table.
      model: whose arrays may be shapes without numbers.
    """
    config, size = model.config, size_of(model)
    count = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    table = _table(title)
    table.add_row("kind", type(model).__name__)
    if model.reads == "tokens":
        table.add_row("tokens", f"{config.vocab_size:,}")
    if isinstance(model.config, Classes):
        classes = [label_class(model.config, i) for i in range(config.num_classes)]
        named = ", ".join(classes)
        table.add_row("classes", f"{config.num_classes:,}: {shorten(named, 60)}")
    table.add_row("layers", f"{config.num_layers} of width {config.d_model}")
    table.add_row("states", f"{size.states:,} numbers, {size.channels} channels")
    table.add_row("parameters", f"{count:,}")
    return table


def checkpoint_model(path_or_id: str, revision: str | None) -> Table:
    """Return what a checkpoint's config.json says; no weights are read.

    Raises:
      CheckpointError: there is no such checkpoint, or none of a known architecture.
    """
    files = locate_files(path_or_id, ("config.json",), revision=revision)
    if "config.json" not in files:
        raise CheckpointError(
            f"{path_or_id} holds no config.json, which says what a model is; give a "
            "folder or Hub id that does."
        )
    raw = read_json(files["config.json"])
    where = str(files["config.json"])
    config, _ = find_architecture(raw, where).read(raw, where)
    made = make_skeleton(config, dtype=jnp.float32, param_dtype=jnp.float32)
    return model_facts(f"Model {path_or_id}", made.model)


def embedded_model() -> Table:
    """Return the sizes of the model that comes with the package."""
    from jmamba.embedded.text import FOLDER, load_embedded

    model, _ = load_embedded()
    table = model_facts("Embedded model", model)
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
