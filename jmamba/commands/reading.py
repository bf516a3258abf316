"""Reading what a user types: texts, files, lists of layers."""

import shlex
import sys
from pathlib import Path

PICTURE_ENDINGS = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jfif", ".jp2", ".webp", ".avif", ".heic"),
    *(".bmp", ".gif", ".ico", ".tif", ".tiff", ".tga", ".pgm", ".ppm", ".pnm"),
)
"""Endings of files that are pictures."""


def read_text(text: str | None, file: Path | None, command: str = "dynamics") -> str:
    """Return the text of an argument, a file or standard input.

    One line end at the end of a file is not part of the text: editors and echo add it.

    Args:
      text: what was typed.
      file: where to read it from.
      command: what reads it, for messages.

    Raises:
      ValueError: there is no text, more than one, it names a picture, or the bytes are
        not UTF-8.
    """
    if (text is None) == (file is None):
        raise ValueError(
            'Give a text, such as "The capital of France is", or - to read standard '
            "input, or a file with --file; one of them."
        )
    if text != "-" and text is not None:
        if names_picture(text):
            raise ValueError(
                f"{text!r} is the name of a picture, but this command reads texts. "
                + _as_text(text, command)
            )
        return check_encoding(text)
    source = "Standard input" if file is None else str(file)
    data = _read_input() if file is None else _read_file(file)
    try:
        found = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{source} is not UTF-8 text: byte {error.start} is "
            f"0x{data[error.start]:02x}. Convert it, for example with: "
            "iconv -f LATIN1 -t UTF-8."
        ) from error
    return found.removesuffix("\n").removesuffix("\r")


def check_encoding(text: str) -> str:
    """Return a text that was typed, or raise if it cannot be written as UTF-8.

    Raises:
      ValueError: it cannot.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The text is not UTF-8 at character {error.start}. Give it in a UTF-8 "
            "terminal."
        ) from error
    return text


def _read_input() -> bytes:
    if sys.stdin is None or sys.stdin.closed:
        raise ValueError(
            "Standard input is closed, so there is no text to read. Give the text "
            "itself, or a file with --file."
        )
    return sys.stdin.buffer.read()


def _read_file(file: Path) -> bytes:
    if not file.exists():
        raise ValueError(f"There is no file {file}; check the name given to --file.")
    if not file.is_file():
        raise ValueError(f"{file} is no file with text; give one to --file.")
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}.") from error


def find_picture(argument: str | None, image: Path | None) -> Path | None:
    """Return the picture that a command is about, None if it is about a text.

    An argument with a picture's ending is a picture, which has to be there: a mistyped
    name must not be explained as a sentence.

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
    if argument is None or not names_picture(argument):
        return None
    if not _is_file(argument):
        raise ValueError(
            f"There is no picture {argument!r}; check the name. {_as_text(argument)}"
        )
    return Path(argument)


def names_picture(argument: str) -> bool:
    """Say whether an argument ends as the name of a picture does.

    Examples:
      >>> [names_picture(typed) for typed in ("my dog.PNG ", "a dog")]
      [True, False]
    """
    return argument.rstrip().lower().endswith(PICTURE_ENDINGS)


def _as_text(argument: str, command: str = "explain") -> str:
    """Say how to give an argument as a text."""
    return (
        "If it is a text, give it as standard input: "
        f"echo {shlex.quote(argument)} | jmamba {command} -"
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
