"""The command `jmamba lens`: what each layer would say after each token."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text as Line

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
from jmamba.commands.reading import parse_layers, read_text
from jmamba.commands.stages import show_result, stages
from jmamba.files.untrusted import as_path


def lens_command(
    text: Text = None,
    file: File = None,
    model: Model = None,
    revision: Revision = None,
    dtype: Dtype = None,
    out: Annotated[
        Path, typer.Option(help="Folder to write.", parser=as_path, metavar="PATH")
    ] = Path("jmamba-lens"),
    overwrite: Overwrite = False,
    layers: Annotated[
        str | None,
        typer.Option(help="Layers to read, such as 3,6,-1; all if left out."),
    ] = None,
    tuned: Annotated[
        Path | None,
        typer.Option(
            help="A tuned lens, which `jmamba tune` wrote; the logit lens if left out.",
            parser=as_path,
            metavar="PATH",
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            help="How many next tokens, or classes, to keep; 5 if left out.",
            min=1,
            max=MOST,
        ),
    ] = None,
) -> None:
    """Show what each layer would say after each token of a text.

    Prints what the layers find likeliest after the text and writes a folder with a
    page, pictures and arrays.
    """
    text, chosen = read_text(text, file, "lens"), parse_layers(layers)
    with stages() as show:
        show("loading the model", 0, 1)
        from jmamba.interventions.tuned_lens import TunedLens
        from jmamba.report.folder import check_directory
        from jmamba.report.lens.measure import measure_lens
        from jmamba.report.lens.page import write_lens

        check_directory(out, overwrite=overwrite)
        translator = None if tuned is None else TunedLens.load(tuned)
        loaded, tokenizer, name = load_text_model(
            model, revision, dtype, classifies=True
        )
        found = measure_lens(
            loaded,
            tokenizer,
            text,
            layers=chosen,
            tuned=translator,
            top=top,
            name=name,
            progress=show,
        )
        page = write_lens(found, out, overwrite=overwrite, progress=show)
    show_result(_table(found), found.timings, page)


def _table(report) -> Table:
    """Return what the layers find likeliest after the text."""
    title = f"After the text, {report.verdict} ({report.lens})"
    table = Table(title=Line(title, "bold"), title_justify="left", box=None)
    table.add_column("layer", justify="right")
    table.add_column(f"likeliest {report.predictions.kind.several}")
    table.add_column("bits from the model", justify="right")
    for row, layer in enumerate(report.layers):
        shares = report.reading.probabilities[row, -1, :3]
        labels = report.top_labels[row][-1]
        likeliest = "   ".join(
            f"{label} {100 * share:.1f} %"
            for label, share in zip(labels, shares, strict=False)
        )
        bits = report.reading.divergence[row, -1]
        table.add_row(str(layer), Line(likeliest), f"{bits:.2f}")
    return table
