"""The command `jmamba train`: its options."""

import dataclasses
import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from jmamba.commands.remat import POLICIES, Recomputed
from jmamba.commands.settings_files import Context, read_options
from jmamba.files.untrusted import as_path
from jmamba.models.mamba.config import MambaConfig
from jmamba.training.config import TrainConfig


class Definite(StrEnum):
    """What `--definite` may be: the choices of `models.definite`."""

    free = "free"
    pos = "pos"
    neg = "neg"
    mixed = "mixed"
    psd_general = "psd_general"
    nsd_general = "nsd_general"


def train_command(
    ctx: Context,
    data: Annotated[
        Path,
        typer.Argument(
            help="Text file, plain or .gz, or what jmamba tokenize made.",
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
    learning_rate: Annotated[float, typer.Option(help="Peak of the cosine.")] = 3e-3,
    warmup: Annotated[int, typer.Option(help="Steps of linear rise.")] = 200,
    weight_decay: Annotated[float, typer.Option(help="Of projections.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of weights and data order.")] = 0,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 250,
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
    """Train a model on a text's bytes or on tokenized texts, and measure it.

    Of a text the first 90 % are trained on, the last 5 % measured. Run again with the
    same options to go on after an interruption (they are in OUT/config.toml, for
    --config); other options are refused, but more steps with --extend are not.
    """
    from jmamba.commands.corpora import vocabulary_of
    from jmamba.commands.train_run import TrainRun, run_training

    options = ctx.params
    run_training(
        TrainRun(
            data=options["data"],
            out=options["out"],
            config=_choose(MambaConfig, options, vocab_size=vocabulary_of(data)),
            settings=_choose(TrainConfig, options),
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


def _choose(kind: Any, options: dict[str, Any], **others: Any) -> Any:
    """Return a dataclass of those options that are its fields."""
    names = {field.name for field in dataclasses.fields(kind)} & set(options)
    return kind(**others, **{name: _plain(options[name]) for name in names})


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, StrEnum) else value


def _lasting(ctx: Context) -> list[str]:
    """Return the options that make a run what it is, in their order."""
    names = [str(param.name) for param in ctx.command.params]
    return [x for x in names if x in ctx.params and x not in ("config", "extend")]


def _command(ctx: Context) -> str:
    """Return what to type to make a model again: the options that are no defaults."""
    words = ["jmamba", "train", ctx.params["data"].name]
    for param in ctx.command.params:
        name, value = param.name, _plain(ctx.params.get(param.name or ""))
        is_said = value != _plain(param.get_default(ctx, call=True))
        if name == "data" or name not in _lasting(ctx) or not is_said:
            continue
        flag = max(param.opts, key=len)
        value = value.name if isinstance(value, Path) else value
        words += [flag] if value is True else [flag, str(value)]
    return shlex.join(words)
