"""Reports that show themselves: in a notebook in place, elsewhere in the browser."""

import os
import tempfile
import webbrowser
from html import escape
from pathlib import Path
from typing import Any

HEIGHT = 720
"""Pixels of a page in a notebook."""

_WRITERS: dict[type, Any] = {}


def register_writer(kind: type, writer: Any) -> Any:
    """Say which `Writer` makes the page of a kind of report, and return it."""
    _WRITERS[kind] = writer
    return writer


class Displayed:
    """A report whose page a notebook shows where it is the value of a cell."""

    def _repr_html_(self) -> str:
        """Return what notebooks show: the report's view, or its page in a frame."""
        writer = _WRITERS[type(self)]
        if writer.fragment is not None:
            return writer.fragment(self)
        page = escape(writer.render(self), quote=True)
        return (
            f'<iframe srcdoc="{page}" width="100%" height="{HEIGHT}" '
            'style="border:0" title="jmamba report"></iframe>'
        )

    def show(self, directory: str | os.PathLike | None = None) -> Path:
        """Write the report and open its page; return the page's path.

        Args:
          directory: where to; None for a new temporary folder.

        Raises:
          ValueError: the directory cannot be written, or holds something else.
        """
        folder = tempfile.mkdtemp(prefix="jmamba-") if directory is None else directory
        page = _WRITERS[type(self)](self, folder).resolve()
        webbrowser.open(page.as_uri())
        return page
