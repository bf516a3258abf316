"""What `jmamba explain` does with a text, or with two beside each other."""

from pathlib import Path

from jmamba.commands.options import load_text_model
from jmamba.commands.stages import show_result, stages


def explain_words(text: str, source, options, out: Path, overwrite: bool) -> Path:
    """Explain a text, write its report and show it; return the path of its page.

    Args:
      text: the text.
      source: model, revision and dtype.
      options: of `explain_text`; `compare` is another text, `compare_model` another
        model.
      out: the folder to write.
      overwrite: whether it may hold something else.
    """
    second, other = options.pop("compare", None), options.pop("compare_model", None)
    with stages() as show:
        show("loading the model", 0, 1)
        from jmamba.commands.terminal import render, render_both
        from jmamba.report.choices import DEFAULT_METHOD, check_question
        from jmamba.report.compare.measure import check_differ, compare_texts
        from jmamba.report.compare.page import write_comparison
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
        of_two = second is not None or other is not None
        if of_two:
            check_differ(text, second, is_other=other is not None)
        model, tokenizer, name = load_text_model(*source)
        options = options | {"progress": show}
        if of_two:
            beside = None if other is None else load_text_model(other, None, source[2])
            found = compare_texts(
                model,
                tokenizer,
                text,
                second,
                other=None if beside is None else beside[:2],
                names=(name, name if beside is None else beside[2]),
                **options,
            )
            page = write_comparison(found, out, overwrite=overwrite, progress=show)
        else:
            found = explain_text(model, tokenizer, text, name=name, **options)
            page = write_text(found, out, overwrite=overwrite, progress=show)
    show_result(render_both(found) if of_two else render(found), found.timings, page)
    return page
