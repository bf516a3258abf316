"""The command `jmamba explain`: what a model makes of a text, or of an image."""

from pathlib import Path
from typing import Annotated, Any

import typer

from jmamba.attention import METHODS, PRESETS
from jmamba.commands.options import (
    MOST,
    Dtype,
    Model,
    Overwrite,
    Revision,
)
from jmamba.commands.reading import find_picture, parse_layers, read_text
from jmamba.files.dtypes import check_dtype
from jmamba.files.untrusted import as_path
from jmamba.report.choices import DEFAULT_METHOD

TEXTS, IMAGES = "Options for texts", "Options for images"
"""Panels of the help; options of the one make no sense with the other."""


def explain_command(
    text: Annotated[
        str | None,
        typer.Argument(
            metavar="[TEXT|IMAGE]",
            help='A text ("-" reads standard input), or the file of a picture.',
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            help="A picture, whatever its file is called.",
            parser=as_path,
            metavar="PATH",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="Read the text from a UTF-8 file.",
            rich_help_panel=TEXTS,
            parser=as_path,
            metavar="PATH",
        ),
    ] = None,
    model: Model = None,
    revision: Revision = None,
    dtype: Dtype = None,
    out: Annotated[
        Path, typer.Option(help="Folder to write.", parser=as_path, metavar="PATH")
    ] = Path("jmamba-out"),
    overwrite: Overwrite = False,
    layers: Annotated[
        str | None, typer.Option(help="Layers to draw large, such as 3,6,-1.")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            help="How many predictions: 8 tokens or 5 classes if left out.", max=MOST
        ),
    ] = None,
    matrices: Annotated[
        bool | None,
        typer.Option(
            help="Attention between all pairs of tokens, or not; if left out, unless "
            "that takes long."
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help=f"How relevance is measured, {DEFAULT_METHOD} if left out: "
            f"{', '.join(METHODS)}."
        ),
    ] = None,
    settings: Annotated[
        str | None,
        typer.Option(help=f"Of methods by attention: {' or '.join(PRESETS)}."),
    ] = None,
    all_methods: Annotated[
        bool | None, typer.Option(help="All other methods too, which takes longer.")
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            help="Another text, to stand beside the first.",
            metavar="TEXT",
            rich_help_panel=TEXTS,
        ),
    ] = None,
    compare_model: Annotated[
        str | None,
        typer.Option(
            help="Another model, to stand beside the first: a checkpoint.",
            metavar="MODEL",
            rich_help_panel=TEXTS,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="What to explain, the likeliest if left out: a next token by its text "
            "or id, a class by its name or number."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Why the target, rather than this token or class."),
    ] = None,
    crop: Annotated[
        bool | None,
        typer.Option(
            help="The picture's middle square only, not the whole resized to fit.",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    groups: Annotated[
        bool | None,
        typer.Option(
            help="Attention of groups of channels, folded and rolled out, or not; if "
            "left out, unless that takes long.",
            rich_help_panel=TEXTS,
        ),
    ] = None,
    jacobian: Annotated[
        bool | None,
        typer.Option(
            help="Norms of the Jacobian's blocks, or not; if left out, unless that "
            "takes long.",
            rich_help_panel=TEXTS,
        ),
    ] = None,
    probes: Annotated[
        int | None,
        typer.Option(
            help="Random directions per token for the Jacobian.",
            rich_help_panel=TEXTS,
            min=1,
            max=MOST,
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="Longest text for --matrices; 512 if left out.",
            rich_help_panel=TEXTS,
            min=1,
            max=MOST,
        ),
    ] = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser.")
    ] = False,
) -> None:
    """Show what a model makes of a text or an image, what drove it, what it attends to.

    Prints the prediction and writes a folder with a page, pictures and arrays.
    """
    check_dtype(dtype)
    picture = find_picture(text, image)
    of_texts = _given(
        groups=groups,
        jacobian=jacobian,
        probes=probes,
        max_tokens=max_tokens,
    )
    of_two = _given(compare=compare, compare_model=compare_model)
    of_images = _given(crop=crop)
    common = {"layers": parse_layers(layers)} | _given(
        matrices=matrices,
        top=top,
        method=method,
        settings=settings,
        all_methods=all_methods,
        target=target,
        against=against,
    )
    source, place = (model, revision, dtype), (out, overwrite)
    if picture is not None:
        _check_foreign(of_texts | of_two | _given(file=file), "an image", "texts")
        from jmamba.commands.explain_image import explain_picture

        page = explain_picture(picture, source, common | of_images, *place)
    else:
        _check_foreign(of_images, "a text", "images")
        text = read_text(text, file)
        options = common | of_texts
        if of_two:
            from jmamba.commands.explain_two import explain_both

            pair = (text, compare, compare_model)
            page = explain_both(*pair, source, options, *place)
        else:
            from jmamba.commands.explain_text import explain_words

            page = explain_words(text, source, options, *place)
    if open_page:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that were typed."""
    return {name: value for name, value in options.items() if value is not None}


def _check_foreign(typed: dict[str, Any], this: str, other: str) -> None:
    """Raise if options of images were typed with a text, or the other way round."""
    if typed:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in typed)
        raise ValueError(
            f"{names}: only for {other}, but this is {this}. Leave out what does not "
            "fit."
        )
