"""What `jmamba explain` does with two texts, or two models, beside each other."""

from pathlib import Path

from jmamba.commands.options import load_text_model
from jmamba.commands.stages import show_result, stages


def explain_both(
    text: str,
    second: str | None,
    other: str | None,
    source,
    options,
    out: Path,
    overwrite: bool,
) -> Path:
    """Explain two texts, write their report and show it; return the path of its page.

    Args:
      text: the first text.
      second: another text, None for the same.
      other: another model, None for the same.
      source: model, revision and dtype.
      options: of `explain_text`.
      out: the folder to write.
      overwrite: whether it may hold something else.
    """
    with stages() as show:
        show("loading the model", 0, 1)
        from jmamba.report.choices import DEFAULT_METHOD, check_question
        from jmamba.report.compare.measure import check_differ, compare_texts
        from jmamba.report.compare.page import write_comparison
        from jmamba.report.folder import check_directory

        check_directory(out, overwrite=overwrite)
        # before the models, as downloading takes long
        check_differ(text, second, is_other=other is not None)
        check_question(
            options.get("method", DEFAULT_METHOD),
            options.get("settings"),
            options.get("top", 8),
        )
        model, tokenizer, name = load_text_model(*source, classifies=True)
        beside = None
        if other is not None:
            beside = load_text_model(other, None, source[2], classifies=True)
        found = compare_texts(
            model,
            tokenizer,
            text,
            second,
            other=None if beside is None else beside[:2],
            names=(name, name if beside is None else beside[2]),
            progress=show,
            **options,
        )
        page = write_comparison(found, out, overwrite=overwrite, progress=show)
    show_result(_render(found), found.timings, page)
    return page


def _render(both):
    """Return what the terminal shows: one explanation under the other."""
    from rich.console import Group
    from rich.text import Text

    from jmamba.commands.terminal import render

    parts = [(Text(name, "bold underline"), render(one)) for name, one in both.pairs]
    return Group(*(line for part in parts for line in ("", *part)))
