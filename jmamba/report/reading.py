"""Reading what a user types: texts, files, lists of layers."""

import sys
from pathlib import Path


def read_text(text: str | None, file: Path | None) -> str:
    """Return the text of an argument, a file or standard input.

    One line end at the end of a file is not part of the text: editors and echo add it.

    Raises:
      ValueError: there is no text, more than one, or the bytes are not UTF-8.
    """
    if (text is None) == (file is None):
        raise ValueError(
            'Give a text, such as "The capital of France is", or - to read standard '
            "input, or a file with --file; one of them."
        )
    if text != "-" and text is not None:
        return text
    source = "Standard input" if file is None else str(file)
    data = sys.stdin.buffer.read() if file is None else file.read_bytes()
    try:
        found = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{source} is not UTF-8 text: byte {error.start} is "
            f"0x{data[error.start]:02x}. Convert it, for example with: "
            "iconv -f LATIN1 -t UTF-8."
        ) from error
    return found.removesuffix("\n").removesuffix("\r")


def parse_layers(layers: str | None) -> list[int] | None:
    """Return the numbers of a list such as 3,6,-1; None stays None.

    Raises:
      ValueError: it is no such list.
    """
    if layers is None:
        return None
    try:
        return [int(part) for part in layers.split(",")]
    except ValueError as error:
        raise ValueError(
            f"--layers {layers!r} is not a list of numbers; type for example "
            "--layers 3,6,-1."
        ) from error
