"""The command `jmamba explain`: what a model makes of a text, or of an image."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jmamba.attention import METHODS, PRESETS
from jmamba.report.command_options import (
    Dtype,
    Model,
    Overwrite,
    Revision,
    load_image_model,
    load_text_model,
)
from jmamba.report.explain_image import DEFAULT_METHOD, check_question
from jmamba.report.reading import find_picture, parse_layers, read_text
from jmamba.report.stages import stages

OF_TEXTS = ("file", "jacobian", "probes", "max_tokens")
OF_IMAGES = ("method", "target", "settings", "compare")
"""Options that make no sense with the other kind of input."""

TEXTS, IMAGES = "Options for texts", "Options for images"


def explain_command(
    context: typer.Context,
    text: Annotated[
        str | None,
        typer.Argument(
            metavar="[TEXT|IMAGE]",
            help='A text ("-" reads standard input), or the file of a picture.',
        ),
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="A picture, whatever its file is called.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Read the text from a UTF-8 file.", rich_help_panel=TEXTS),
    ] = None,
    model: Model = None,
    revision: Revision = None,
    dtype: Dtype = None,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("jmamba-out"),
    overwrite: Overwrite = False,
    layers: Annotated[
        str | None, typer.Option(help="Layers to draw large, such as 3,6,-1.")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(help="How many predictions: 8 tokens or 5 classes if left out."),
    ] = None,
    matrices: Annotated[
        bool, typer.Option(help="Attention between all pairs of tokens.")
    ] = True,
    method: Annotated[
        str,
        typer.Option(
            help=f"How relevance is measured: {', '.join(METHODS)}.",
            rich_help_panel=IMAGES,
        ),
    ] = DEFAULT_METHOD,
    target: Annotated[
        str | None,
        typer.Option(
            help="Class to explain, its name or number; the likeliest if left out.",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    settings: Annotated[
        str | None,
        typer.Option(
            help=f"Of methods by attention: {' or '.join(PRESETS)}.",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option(help="All other methods too.", rich_help_panel=IMAGES)
    ] = True,
    jacobian: Annotated[
        bool,
        typer.Option(
            help="Norms of the token Jacobian's blocks.", rich_help_panel=TEXTS
        ),
    ] = True,
    probes: Annotated[
        int | None,
        typer.Option(
            help="Random directions per token for the Jacobian.", rich_help_panel=TEXTS
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(help="Longest text for --matrices.", rich_help_panel=TEXTS)
    ] = 512,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser.")
    ] = False,
) -> None:
    """Show what a model makes of a text or an image, what drove it, what it attends to.

    Prints the prediction and writes a folder with a page, pictures and arrays.
    """
    picture = find_picture(text, image)
    _check_options(context, OF_TEXTS if picture else OF_IMAGES, is_text=not picture)
    chosen = parse_layers(layers)
    place = {"out": out, "overwrite": overwrite}
    common = {"layers": chosen, "matrices": matrices}
    if top is not None:
        common["top"] = top
    source = model, revision, dtype
    if picture is not None:
        options = {"method": method, "target": target, "settings": settings}
        page = _explain_image(
            picture, source, common | options | {"compare": compare}, **place
        )
    else:
        options = {"jacobian": jacobian, "probes": probes, "max_tokens": max_tokens}
        page = _explain_text(read_text(text, file), source, common | options, **place)
    if open_page:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())


def _explain_text(text: str, source, options, *, out: Path, overwrite: bool) -> Path:
    with stages() as show:
        show("loading the model", 0, 1)
        from jmamba import report
        from jmamba.report.folder import check_directory
        from jmamba.report.terminal import render

        check_directory(out, overwrite=overwrite)
        language_model, tokenizer, name = load_text_model(*source)
        found = report.explain(
            language_model, tokenizer, text, name=name, progress=show, **options
        )
        page = report.write(found, out, overwrite=overwrite, progress=show)
    _show(render(found), found.timings, page)
    return page


def _explain_image(path: Path, source, options, *, out: Path, overwrite: bool) -> Path:
    with stages() as show:
        show("loading the model", 0, 1)
        from jmamba import report
        from jmamba.models.images import open_image
        from jmamba.report.folder import check_directory
        from jmamba.report.terminal import render_image

        check_directory(out, overwrite=overwrite)
        # before the model, as downloading takes long
        check_question(options["method"], options["settings"], options.get("top", 5))
        open_image(path)
        vim, name = load_image_model(*source)
        found = report.explain_image(vim, path, name=name, progress=show, **options)
        page = report.write_image(found, out, overwrite=overwrite, progress=show)
    _show(render_image(found), found.timings, page)
    return page


def _show(rendered, timings: dict[str, float], page: Path) -> None:
    console = Console(highlight=False)
    console.print(rendered)
    seconds = sum(timings.values())
    console.print(f"\nComputed in {seconds:.1f} s. The page with all figures:")
    console.print(str(page.resolve()), soft_wrap=True)


def _check_options(
    context: typer.Context, foreign: tuple[str, ...], *, is_text: bool
) -> None:
    """Raise if options of images were given with a text, or the other way round."""
    typed = [
        f"--{name.replace('_', '-')}"
        for name in foreign
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if typed:
        kind, other = ("a text", "images") if is_text else ("an image", "texts")
        raise ValueError(
            f"{', '.join(typed)}: only for {other}, but this is {kind}. Leave out what "
            "does not fit."
        )
