"""Fonts that can draw the texts that people explain, and what stands in for letters."""

import functools
import unicodedata

from matplotlib import font_manager, ft2font, get_data_path

from jmamba.figures.labels import JOINERS, split_graphemes

PREFERRED_FONTS = (
    "DejaVu Sans Mono",
    "DejaVu Sans",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans",
    "Hiragino Sans",
    "PingFang SC",
    "Microsoft YaHei",
    "Noto Sans Devanagari",
    "Noto Sans Symbols2",
    "Noto Emoji",
)
"""The first two come with matplotlib; the others are used where they are installed."""

SHAPES_TEXT = hasattr(ft2font, "__libraqm_version__")
"""Whether this matplotlib orders letters from right to left and joins them itself."""


@functools.cache
def font_files() -> dict[str, str]:
    """Return the file of each installed family, the preferred ones first.

    Matplotlib looks for fonts once and keeps a list; fonts that were installed since
    are added here. Its own fonts of mathematical symbols are no letters, nor is the
    font of last resort, which has a box for every character.
    """
    manager = font_manager.fontManager
    known = {font.fname for font in manager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:
            try:
                manager.addfont(path)
            except (RuntimeError, OSError, ValueError, KeyError):
                continue  # pictures of letters, or no font at all
    found = {}
    for font in sorted(manager.ttflist, key=_oddity):
        is_own = str(font.fname).startswith(get_data_path())
        if font.name in PREFERRED_FONTS or not (is_own or "Last Resort" in font.name):
            found.setdefault(font.name, str(font.fname))
    preferred = [name for name in PREFERRED_FONTS if name in found]
    return {name: found[name] for name in [*preferred, *sorted(found)]}


def _oddity(font) -> tuple:
    """Order the files of a family: upright ones of usual weight first."""
    weight = font.weight if isinstance(font.weight, int) else 400
    return font.style != "normal", abs(weight - 400), str(font.stretch), font.fname


@functools.cache
def font_of(character: str) -> str | None:
    """Return the first family that has a character, None if none has it."""
    for family, path in font_files().items():
        if font_manager.get_font(path).get_char_index(ord(character)):
            return family
    return None


def families_of(text: str, *, mono: bool = True) -> list[str]:
    """Return the families that a text needs, best first.

    Args:
      text: what is drawn.
      mono: whether letters of equal width come first.
    """
    first = list(PREFERRED_FONTS[:2] if mono else PREFERRED_FONTS[1::-1])
    more = {font_of(c): None for c in text if not c.isascii()}
    return first + [family for family in more if family and family not in first]


def drawable(label: str) -> str:
    """Return a label with code points in place of what no font can draw.

    Where matplotlib draws letters in the order of the text, those that are read from
    right to left are turned round.

    Examples:
      >>> drawable("␣né")
      '␣né'
      >>> drawable("\U0010fffd")
      '‹10FFFD›'
    """
    parts = [_drawable(grapheme) for grapheme in split_graphemes(label)]
    if SHAPES_TEXT:
        return "".join(parts)
    return "".join(_turned(parts))


def _drawable(grapheme: str) -> str:
    """Return what is read as one character, or its first code point in brackets.

    A mark without its letter would land on the neighbour.
    """
    whole = unicodedata.normalize("NFC", grapheme)
    shown = [c for c in whole if c not in JOINERS and not _is_selector(c)]
    if all(font_of(c) for c in shown) and not unicodedata.combining(whole[0]):
        return whole if SHAPES_TEXT else "".join(shown)
    more = "+" if len(shown) > 1 else ""
    return f"‹{ord(whole[0]):04X}{more}›"


def _is_selector(c: str) -> bool:
    """Say whether a character asks for a variant of the one before it."""
    return 0xFE00 <= ord(c) <= 0xFE0F


def _turned(parts: list[str]) -> list[str]:
    """Return graphemes from left to right: runs of those read the other way turned."""
    ordered, run = [], []
    for part in [*parts, ""]:
        if part and unicodedata.bidirectional(part[0]) in ("R", "AL"):
            run.append(part)
            continue
        ordered += [*reversed(run), part]
        run = []
    return ordered


def plain_text(text, *, mono: bool = True, **style):
    """Give a text artist the fonts it needs, and keep `$` from starting a formula."""
    text.set_parse_math(False)
    text.set_fontfamily(families_of(text.get_text(), mono=mono))
    text.set(**style)
    return text
