"""The command `jmamba plan`: what a model takes on devices that are not there."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import jax
import typer

from jmamba.commands.remat import POLICIES, Recomputed
from jmamba.commands.stages import stages
from jmamba.files.dtypes import check_dtype
from jmamba.files.exchange import write_file
from jmamba.files.untrusted import as_path

FIGURES = (".png", ".svg", ".pdf")
"""Endings of names of figures."""


class ProgramKind(StrEnum):
    """What `--program` may be: the kinds of `planning.programs`."""

    train = "train"
    prefill = "prefill"
    decode = "decode"
    attention = "attention"


def plan_command(
    model: Annotated[
        str, typer.Option(help="2.8b, mamba2-1.3b, vim-tiny, or a checkpoint folder.")
    ],
    topology: Annotated[str, typer.Option(help="v5e:16x16, v5p:8x8x8, ..., or cpu:8.")],
    program: Annotated[
        ProgramKind, typer.Option(help="What is to run.")
    ] = ProgramKind.train,
    mesh: Annotated[
        str | None,
        typer.Option(help="fsdp=16,tensor=4: data, fsdp, sequence, tensor."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Rows; one for each device of data and fsdp.", min=1),
    ] = None,
    length: Annotated[int, typer.Option(help="Tokens in a row.", min=1)] = 2048,
    dtype: Annotated[str, typer.Option(help="Of activations.")] = "bfloat16",
    remat: Annotated[
        Recomputed, typer.Option(help="What training computes again.")
    ] = Recomputed.full,
    figure: Annotated[
        Path | None,
        typer.Option(
            help="Draw the plan here: .png, .svg or .pdf.",
            parser=as_path,
            metavar="PATH",
        ),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(help="Write the plan here.", parser=as_path, metavar="PATH"),
    ] = None,
) -> None:
    """Compile a program for a pod on this machine, and say what it takes.

    Memory, exchanges and the kernel are what the compiler of the devices says; times
    are lower bounds. Without --mesh parameters lie over all devices (fsdp).
    """
    jax.config.update("jax_platforms", "cpu")  # no TPU is looked for
    from jmamba.models.sharding import Sharding
    from jmamba.planning.configs import find_config
    from jmamba.planning.pages import plan_data, plan_json, plan_text
    from jmamba.planning.plan import make_plan
    from jmamba.planning.programs import Workload
    from jmamba.planning.topologies import open_topology

    check_dtype(dtype)
    if figure is not None and figure.suffix not in FIGURES:
        raise ValueError(
            f"--figure {figure}: give a name that ends with {', '.join(FIGURES)}."
        )
    config = find_config(model)
    found = open_topology(topology)
    mesh = f"fsdp={len(found.devices)}" if mesh is None else mesh
    sharding = Sharding.parse(mesh, found.devices)
    batch = sharding.data * sharding.fsdp if batch is None else batch
    task = Workload(config, sharding, batch, length, dtype, POLICIES[remat.value])
    with stages() as show:
        show("compiling", 0, 1)
        plan = make_plan(program.value, task, found)
    data = plan_data(program.value, model, task, found, plan)
    typer.echo(plan_text(data))
    if figure is not None:
        from jmamba.report.plan import save_plan

        save_plan(data, figure)
    if json is not None:
        write_file(json, plan_json(data))
    if plan.advice:
        raise typer.Exit(1)
