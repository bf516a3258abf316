"""What `jmamba explain` does with a picture."""

from pathlib import Path
from typing import Any

from jmamba.commands.options import check_revision
from jmamba.commands.stages import show_result, stages


def explain_picture(path: Path, source, options, out: Path, overwrite: bool) -> Path:
    """Explain a picture, write its report and show it; return the path of its page."""
    with stages() as show:
        show("loading the model", 0, 1)
        from jmamba.models.vim.images import open_image
        from jmamba.report.choices import DEFAULT_METHOD, check_question
        from jmamba.report.folder import check_directory
        from jmamba.report.image.measure import explain_image
        from jmamba.report.image.page import write_image

        check_directory(out, overwrite=overwrite)
        # before the model, as downloading takes long
        check_question(
            options.get("method", DEFAULT_METHOD),
            options.get("settings"),
            options.get("top", 5),
        )
        open_image(path)
        vim, name = load_image_model(*source)
        found = explain_image(vim, path, name=name, progress=show, **options)
        page = write_image(found, out, overwrite=overwrite, progress=show)
    show_result(render_image(found), found.timings, page)
    return page


def render_image(explanation: Any) -> Any:
    """Return what the terminal shows of an image's explanation."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    from jmamba.commands.terminal import predictions_table

    height, width = explanation.picture.shape[:2]
    size = f"{width} x {height} pixels, read {explanation.how_read}"
    about = Text(f"{explanation.shown_name}, {size}")
    method = explanation.method.replace("_", " ")
    explained = Text(f"Explained by {method}: {explanation.label}")
    return Group(
        Padding(about, (1, 2)),
        predictions_table(explanation.predictions),
        Padding(explained, (1, 2, 0, 2)),
    )


def load_image_model(
    model: str | None, revision: str | None, dtype: str | None
) -> tuple[Any, str]:
    """Return a model of images and its name.

    Raises:
      ValueError: a revision is given without a model, or as `from_pretrained` says.
    """
    if model is None:
        check_revision(revision)
        from jmamba.embedded.images import load_embedded_vim

        return load_embedded_vim(dtype=dtype).model, "embedded Vision Mamba"
    from jmamba.models.vim.model import Vim

    return Vim.from_pretrained(model, dtype=dtype, revision=revision), model
