"""What `jmamba explain` does with a text."""

from pathlib import Path

from jmamba.commands.options import load_text_model
from jmamba.commands.stages import show_result, stages


def explain_words(text: str, source, options, out: Path, overwrite: bool) -> Path:
    """Explain a text, write its report and show it; return the path of its page."""
    with stages() as show:
        show("loading the model", 0, 1)
        from jmamba.commands.terminal import render
        from jmamba.report.choices import DEFAULT_METHOD, check_question
        from jmamba.report.folder import check_directory
        from jmamba.report.text.measure import explain_text
        from jmamba.report.text.page import write_text

        check_directory(out, overwrite=overwrite)
        # before the model, as downloading takes long
        check_question(
            options.get("method", DEFAULT_METHOD),
            options.get("settings"),
            options.get("top", 8),
        )
        model, tokenizer, name = load_text_model(*source, classifies=True)
        found = explain_text(
            model, tokenizer, text, name=name, progress=show, **options
        )
        page = write_text(found, out, overwrite=overwrite, progress=show)
    show_result(render(found), found.timings, page)
    return page
