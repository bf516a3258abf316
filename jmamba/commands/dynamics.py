"""The command `jmamba dynamics`: how the tokens of a text move from layer to layer."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jmamba.commands.options import (
    MOST,
    Dtype,
    File,
    Model,
    Overwrite,
    Revision,
    Text,
    load_text_model,
)
from jmamba.commands.reading import read_text
from jmamba.commands.stages import stages
from jmamba.files.untrusted import as_path


def dynamics_command(
    text: Text = None,
    file: File = None,
    model: Model = None,
    revision: Revision = None,
    dtype: Dtype = None,
    out: Annotated[
        Path, typer.Option(help="Folder to write.", parser=as_path, metavar="PATH")
    ] = Path("jmamba-dynamics"),
    overwrite: Overwrite = False,
    exponents: Annotated[
        int, typer.Option(help="How many exponents over depth.", min=1, max=MOST)
    ] = 8,
) -> None:
    """Show how the tokens of a text move from layer to layer.

    Prints what the theory of token dynamics asks of each layer and writes a folder
    with a page, pictures and arrays.
    """
    text = read_text(text, file)
    with stages() as show:
        show("loading the model", 0, 1)
        from jmamba.report.dynamics.measure import measure_dynamics
        from jmamba.report.dynamics.page import COLUMNS, write_dynamics
        from jmamba.report.folder import check_directory

        check_directory(out, overwrite=overwrite)
        loaded, tokenizer, name = load_text_model(
            model, revision, dtype, classifies=True
        )
        found = measure_dynamics(
            loaded,
            tokenizer,
            text,
            exponents=exponents,
            name=name,
            progress=show,
        )
        page = write_dynamics(found, out, overwrite=overwrite, progress=show)
    console = Console(highlight=False)
    console.print(found.regimes.as_table(), soft_wrap=True)
    for column in found.regimes.columns():
        console.print(f"  {column}: {COLUMNS[column]}", style="dim", markup=False)
    growing = ", ".join(f"{v:.3g}" for v in found.exponents)
    console.print(f"\nExponents over depth: {growing}")
    console.print("The page with all figures:")
    console.print(str(page.resolve()), soft_wrap=True)
