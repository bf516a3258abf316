"""Files that lie beside the code of reports: styles and scripts."""

from importlib import resources


def resource(name: str) -> str:
    """Return the text of a file in the folder of reports.

    Args:
      name: its path there.
    """
    return resources.files("jmamba.report").joinpath(name).read_text(encoding="utf-8")
