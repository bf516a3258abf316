import pytest

from jmamba.checkpoints import ByteTokenizer
from jmamba.figures.labels import (
    Piece,
    piece_labels,
    shorten,
    split_pieces,
    text_after,
    token_labels,
    visible,
)
from jmamba.figures.words import join_words, word_stretches
from jmamba.generation.text_stream import TextStream

BYTES = ByteTokenizer()


TEXTS = [
    "plain",
    "é中😀\n\t x",
    "a\x00b",
    "\u200fשלום",
    "e\u0301",
    "a\r\nb",
    "👩\u200d🚀!",
]


def pieces_of(text):
    return split_pieces(text, BYTES.offsets(text))


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_cover_the_text(text):
    pieces = pieces_of(text)
    assert "".join(piece.text for piece in pieces) == text
    assert [p.start for p in pieces[1:]] == [p.stop for p in pieces[:-1]]
    assert pieces[-1].stop == len(text.encode())


@pytest.mark.parametrize(
    ("text", "graphemes"),
    [
        ("中国", ["中", "国"]),
        ("👩\u200d👩\u200d👧 👍🏽", ["👩\u200d👩\u200d👧", " ", "👍🏽"]),
        ("🇩🇪🇫🇷", ["🇩🇪", "🇫🇷"]),
        ("1\ufe0f\u20e3e\u0301", ["1\ufe0f\u20e3", "e\u0301"]),
        ("שלום", list("שלום")),
        ("می\u200cخ", ["م", "ی\u200c", "خ"]),
    ],
)
def test_a_run_of_bytes_is_one_label(text, graphemes):
    pieces = pieces_of(text)
    assert [piece.text for piece in pieces] == graphemes
    sizes = [piece.stop - piece.start for piece in pieces]
    assert sizes == [len(part.encode()) for part in graphemes]
    shown = (
        graphemes if " " not in text else [part.replace(" ", "␣") for part in graphemes]
    )
    assert piece_labels(pieces, BYTES.pieces(BYTES.encode(text))) == shown


@pytest.mark.parametrize(
    ("offsets", "parts"),
    [
        ([(0, 2), (3, 4), (5, 6)], ["Ab", " C", " d "]),  # blanks that none stands for
        ([(0, 2), (2, 4), (4, 7)], ["Ab", " C", " d "]),  # blanks that tokens have
        ([(0, 0), (0, 2), (3, 6), (0, 0)], ["", "Ab", " C d ", ""]),  # added ones
        ([(0, 3), (2, 4), (4, 6)], ["Ab C", " d "]),  # two share a character
    ],
)
def test_pieces_are_the_text_by_offsets(offsets, parts):
    pieces = split_pieces("Ab C d ", offsets)
    assert [piece.text for piece in pieces] == parts
    assert pieces[0].start == 0 and pieces[-1].stop == len(offsets)


def test_labels_show_line_ends_blanks_and_parts_of_characters():
    labels = token_labels(pieces_of("a \n中\r"), BYTES.pieces(BYTES.encode("a \n中\r")))
    assert labels == ["a", "␣", "↵", "中 1/3", "中 2/3", "中 3/3", "⇤"]


def test_stretches_of_a_text_are_whole_words():
    text = "It was the best of times"
    pieces = pieces_of(text)
    labels = piece_labels(pieces, list(text))
    found = word_stretches(pieces, labels, 6)
    assert found == {0: "It␣was", 7: "the␣best", 16: "of␣times"}
    assert all(text[place - 1] == " " for place in found if place)
    assert list(word_stretches(pieces, labels, 2)) == [0, 3, 7, 11, 16, 19]
    long = word_stretches(pieces_of("x" * 40), ["x"] * 40, 8)
    assert list(long) == [0, 16, 32] and long[0] == "x" * 10
    wide = pieces_of("今天天气很好")
    assert list(word_stretches(wide, [p.text for p in wide], 6)) == [0, 6, 12]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (["in", "ter", " nation", "al", "."], ["inter", " national."]),
        (["a", " ", " ", "b", "\n", "c"], ["a  ", "b\n", "c"]),
        (["", "he", "llo", ""], ["", "hello", ""]),
        (["雪", "山", " x"], ["雪", "山", " x"]),
        ([" a"], [" a"]),
    ],
)
def test_words_are_joined_of_pieces(parts, words):
    pieces = [Piece(text, i, i + 1) for i, text in enumerate(parts)]
    found = join_words(pieces)
    assert [word.text for word in found] == words
    assert [word.start for word in found[1:]] == [word.stop for word in found[:-1]]
    assert (found[0].start, found[-1].stop) == (0, len(parts))


def test_visible_leaves_nothing_unseen():
    assert visible("\u200b\x1b[0m") == "\\u200b\\x1b[0m"
    assert visible("a\u200d\u202eb") == "a\\u200d\\u202eb"
    assert visible("\u200d") == "\\u200d"


def test_labels_of_what_comes_next_keep_their_blank():
    words = ["▁The", "▁capital", "s"]

    def decode(ids):
        return "".join(words[i] for i in ids).replace("▁", " ").removeprefix(" ")

    assert [text_after(0, i, decode) for i in (1, 2)] == [" capital", "s"]
    assert text_after(0xC3, 0x41, BYTES.decode) == "A"
    assert text_after(0xC3, 0xA9, BYTES.decode) == "\ufffd"  # half of it is before


def test_visible_keeps_joiners_where_they_join():
    for text in ("👩\u200d🚀", "می\u200cخواهم", "🏴\U000e0067\U000e007f"):
        assert visible(text) == text


def test_shorten_keeps_short_labels():
    assert shorten("abc", 3) == "abc"
    assert shorten("abcd", 3) == "ab…"


def test_piece_is_readable():
    assert Piece("a", 0, 1).text == "a"


@pytest.mark.parametrize("text", ["né 😀!", "a\nb"])
def test_text_stream_gives_the_text_back(text):
    stream = TextStream(BYTES.decode, BYTES.encode("é"))
    parts = [stream.push(token) for token in BYTES.encode(text)]
    assert "".join(parts) + stream.rest() == text


def test_text_stream_does_not_wait_for_broken_bytes():
    stream = TextStream(BYTES.decode, [])
    shown = "".join(stream.push(token) for token in [0xFF] * 6 + [65])
    assert shown.endswith("A")
    assert stream.rest() == ""
    stream.push(0xC3)
    assert stream.rest() == "\ufffd"
