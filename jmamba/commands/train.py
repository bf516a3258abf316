"""The command `jmamba train`: its options."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from jmamba.commands.processes import (
    OPTIONS,
    Coordinator,
    Distributed,
    Process,
    Processes,
    join_processes,
)
from jmamba.commands.remat import POLICIES, Recomputed
from jmamba.commands.settings_files import Context, read_options
from jmamba.files.untrusted import as_path
from jmamba.training.config import TrainConfig


class Definite(StrEnum):
    """What `--definite` may be: the choices of `models.definite`."""

    free = "free"
    pos = "pos"
    neg = "neg"
    mixed = "mixed"
    psd_general = "psd_general"
    nsd_general = "nsd_general"


NO_SETTINGS = ("config", "extend", *OPTIONS)
"""Options that say nothing of what a run is."""


def train_command(
    ctx: Context,
    data: Annotated[
        Path,
        typer.Argument(
            help="Text file, plain or .gz, what jmamba tokenize made, or a folder of "
            "pictures with a folder for each class.",
            parser=as_path,
            metavar="DATA",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for checkpoints and the model.",
            parser=as_path,
            metavar="PATH",
        ),
    ],
    d_model: Annotated[int, typer.Option(help="Width of the residual stream.")] = 256,
    num_layers: Annotated[int, typer.Option(help="Number of blocks.")] = 6,
    d_state: Annotated[int, typer.Option(help="States per channel.")] = 16,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 6400,
    batch: Annotated[int, typer.Option(help="Sequences per step.")] = 4,
    length: Annotated[int, typer.Option(help="Tokens per sequence.")] = 320,
    image_size: Annotated[
        int, typer.Option(help="Side that pictures are resized to.")
    ] = 64,
    patch_size: Annotated[int, typer.Option(help="Side of a patch of them.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Peak of the cosine.")] = 3e-3,
    warmup: Annotated[int, typer.Option(help="Steps of linear rise.")] = 200,
    weight_decay: Annotated[float, typer.Option(help="Of projections.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of weights and data order.")] = 0,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 250,
    evaluate_every: Annotated[
        int,
        typer.Option(help="Steps between evaluations on what is held out; 0: none."),
    ] = 500,
    dtype: Annotated[str, typer.Option(help="Of the stored weights.")] = "bfloat16",
    optimizer: Annotated[str, typer.Option(help="adamw, muon, ...")] = "adamw",
    clip: Annotated[float, typer.Option(help="Largest norm of gradients.")] = 1.0,
    accumulate: Annotated[
        int, typer.Option(help="Parts of a batch, one after the other.")
    ] = 1,
    average: Annotated[
        float, typer.Option(help="Weight of the past in averaged weights; 0: none.")
    ] = 0.0,
    mesh: Annotated[
        str | None,
        typer.Option(help="data=2,fsdp=4: data, fsdp, sequence, tensor."),
    ] = None,
    compute: Annotated[str, typer.Option(help="dtype of activations.")] = "float32",
    remat: Annotated[
        Recomputed, typer.Option(help="What the backward pass computes again.")
    ] = Recomputed.none,
    definite: Annotated[
        Definite, typer.Option(help="Signs of the eigenvalues of S_C^T S_B.")
    ] = Definite.free,
    definite_threshold: Annotated[
        float | None,
        typer.Option(help="Least magnitude; the official one if left out."),
    ] = None,
    equal_magnitudes: Annotated[
        bool,
        typer.Option(
            "--equal-magnitudes", help="Give mixed signs the threshold of the others."
        ),
    ] = False,
    extend: Annotated[
        bool,
        typer.Option("--extend", help="Go on with a run of fewer steps."),
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write files for TensorBoard.")
    ] = False,
    distributed: Distributed = False,
    coordinator: Coordinator = None,
    processes: Processes = None,
    process: Process = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of options; those typed here count more.",
            parser=as_path,
            metavar="PATH",
            is_eager=True,
            callback=read_options,
        ),
    ] = None,
) -> None:
    """Train a model on a text's bytes, tokenized texts or pictures, and measure it.

    Of a text the first 90 % are trained on, the last 5 % measured. Run again with the
    same options to go on after an interruption (they are in OUT/config.toml, for
    --config); other options are refused, but more steps with --extend are not. On
    several machines each runs this, with --distributed or --coordinator.
    """
    join_processes(distributed, coordinator, processes, process)
    import jax

    from jmamba.commands.corpora import choose_config, take_fields
    from jmamba.commands.train_run import TrainRun, run_training

    options = ctx.params
    if mesh is None and jax.process_count() > 1:
        mesh = f"fsdp={len(jax.devices())}"
    run_training(
        TrainRun(
            data=options["data"],
            out=options["out"],
            config=choose_config(data, options),
            settings=take_fields(TrainConfig, options),
            mesh=mesh,
            compute=compute,
            remat=POLICIES[remat.value],
            dtype=dtype,
            extend=extend,
            tensorboard=tensorboard,
            options={name: options[name] for name in _lasting(ctx)},
            command=_command(ctx),
        )
    )


def _lasting(ctx: Context) -> list[str]:
    """Return the options that make a run what it is, in their order."""
    names = [str(param.name) for param in ctx.command.params]
    return [x for x in names if x in ctx.params and x not in NO_SETTINGS]


def _command(ctx: Context) -> str:
    """Return what to type to make a model again: the options that are no defaults."""
    from jmamba.commands.corpora import plain_value

    words = ["jmamba", "train", ctx.params["data"].name]
    for param in ctx.command.params:
        name, value = param.name, plain_value(ctx.params.get(param.name or ""))
        is_said = value != plain_value(param.get_default(ctx, call=True))
        if name == "data" or name not in _lasting(ctx) or not is_said:
            continue
        flag = max(param.opts, key=len)
        value = value.name if isinstance(value, Path) else value
        words += [flag] if value is True else [flag, str(value)]
    return shlex.join(words)
