"""Reading what a user types: texts, files, lists of layers."""

import sys
from pathlib import Path

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
"""Endings of files that are pictures."""


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


def find_picture(argument: str | None, image: Path | None) -> Path | None:
    """Return the picture that a command is about, None if it is about a text.

    An argument is a picture if there is a file of that name with a picture's ending. A
    single word with such an ending that names no file is a mistake, and any other
    argument a text.

    Args:
      argument: what was typed.
      image: what was given as a picture.

    Raises:
      ValueError: both were given, or a picture is meant that is not there.
    """
    if image is not None:
        if argument is not None:
            raise ValueError(
                f"Give a text or a picture, not both {argument!r} and --image {image}."
            )
        return image
    if argument is None or not argument.lower().endswith(PICTURES):
        return None
    if _is_file(argument):
        return Path(argument)
    if len(argument.split()) > 1:
        return None
    raise ValueError(
        f"There is no picture {argument}; check the name. If it is a text to explain, "
        f"give it as standard input: echo {argument} | jmamba explain -"
    )


def _is_file(argument: str) -> bool:
    try:
        return Path(argument).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # no text need be a possible path
        return False


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
