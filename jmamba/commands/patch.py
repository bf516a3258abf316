"""The command `jmamba patch`: which layer and token carry what two texts differ in."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from jmamba.commands.options import (
    MOST,
    Dtype,
    Model,
    Overwrite,
    Revision,
    load_text_model,
)
from jmamba.commands.reading import check_encoding, parse_layers
from jmamba.commands.stages import show_result, stages
from jmamba.files.untrusted import as_path


def patch_command(
    clean: Annotated[str, typer.Argument(help="The text whose answer is asked for.")],
    corrupted: Annotated[
        str, typer.Argument(help="Another one of as many tokens, which is patched.")
    ],
    answer: Annotated[
        str | None,
        typer.Option(
            help="The next token, by its text or id, or the class, by its name or "
            "number; the likeliest after CLEAN if left out."
        ),
    ] = None,
    instead_of: Annotated[
        str | None,
        typer.Option(help="Another next token or class, whose logit is taken off."),
    ] = None,
    place: Annotated[
        str,
        typer.Option(help="What is patched: residual_out, h, output, delta, ..."),
    ] = "residual_out",
    layers: Annotated[
        str | None, typer.Option(help="Layers to patch, such as 3,6,-1.")
    ] = None,
    top: Annotated[
        int,
        typer.Option(
            help="How many next tokens, or classes, to keep.", min=1, max=MOST
        ),
    ] = 5,
    model: Model = None,
    revision: Revision = None,
    dtype: Dtype = None,
    out: Annotated[
        Path, typer.Option(help="Folder to write.", parser=as_path, metavar="PATH")
    ] = Path("jmamba-patch"),
    overwrite: Overwrite = False,
) -> None:
    """Put what passes on one text into runs on another, at every layer and token.

    Prints which patches bring the answer back, and writes a folder with a page,
    pictures and arrays. An estimate from one gradient stands beside, with its error.
    """
    clean, corrupted = check_encoding(clean), check_encoding(corrupted)
    chosen = parse_layers(layers)
    with stages() as show:
        show("loading the model", 0, 1)
        from jmamba.report.folder import check_directory
        from jmamba.report.patch.measure import measure_patches
        from jmamba.report.patch.page import write_patches

        check_directory(out, overwrite=overwrite)
        loaded, tokenizer, name = load_text_model(
            model, revision, dtype, classifies=True
        )
        found = measure_patches(
            loaded,
            tokenizer,
            clean,
            corrupted,
            place=place,
            layers=chosen,
            answer=answer,
            instead_of=instead_of,
            top=top,
            name=name,
            progress=show,
        )
        page = write_patches(found, out, overwrite=overwrite, progress=show)
    show_result(_render(found), found.timings, page)


def _render(report) -> Group:
    """Return what the terminal shows: logits, patches that do most, the error."""
    table = Table(
        title=Text(f"What brings {report.asked} back ({report.place})", "bold"),
        title_justify="left",
        box=None,
    )
    for heading in ("where", "position", "token", "brought back", "estimated"):
        table.add_column(heading, justify="left" if heading == "token" else "right")
    for row, token in report.strongest(8):
        table.add_row(
            report.row_labels[row],
            str(token),
            Text(report.labels[token]),
            f"{100 * report.recovered[row, token]:.1f} %",
            f"{100 * report.estimated[row, token]:.1f} %",
        )
    return Group(
        Text(f"logit {report.goal:.2f} clean, {report.base:.2f} corrupted"),
        "",
        table,
        Text(
            f"The estimate correlates by {report.error.correlation:.3f} and is off by "
            f"{100 * report.error.worst:.0f} % of the largest change at worst.",
            "dim",
        ),
    )
