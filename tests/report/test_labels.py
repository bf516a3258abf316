import pytest

from jmamba.checkpoints import ByteTokenizer
from jmamba.generation.text_stream import TextStream
from jmamba.report.labels import Piece, shorten, split_pieces, token_labels, visible

BYTES = ByteTokenizer()


def pieces_of(ids):
    return split_pieces(ids, BYTES.decode)


@pytest.mark.parametrize("text", ["plain", "é中😀\n\t x", "a\x00b", "‏שלום", "e\u0301"])
def test_pieces_cover_the_text(text):
    pieces = pieces_of(BYTES.encode(text))
    assert "".join(piece.text for piece in pieces) == text
    assert [p.start for p in pieces[1:]] == [p.stop for p in pieces[:-1]]
    assert pieces[-1].stop == len(text.encode())


def test_pieces_of_broken_bytes_are_single_tokens():
    ids = [65, 0xC3, 66, 0xFF, 0xE4, 0xB8]
    pieces = pieces_of(ids)
    assert [(p.start, p.stop) for p in pieces] == [(i, i + 1) for i in range(len(ids))]
    labels = token_labels(pieces, BYTES.pieces(ids))
    assert labels == ["A", "\\xc3", "B", "\\xff", "\\xe4", "\\xb8"]


def test_pieces_of_a_decoder_that_drops_leading_blanks():
    words = ["▁The", "▁capital", "▁of"]

    def decode(ids):
        return "".join(words[i] for i in ids).replace("▁", " ").removeprefix(" ")

    texts = [piece.text for piece in split_pieces([0, 1, 2], decode)]
    assert texts == ["The", " capital", " of"]


def test_labels_show_line_ends_blanks_and_parts_of_characters():
    ids = BYTES.encode("a \n中")
    labels = token_labels(pieces_of(ids), BYTES.pieces(ids))
    assert labels == ["a", "␣", "↵", "中 1/3", "中 2/3", "中 3/3"]


def test_visible_leaves_nothing_unseen():
    assert visible("\u200b\x1b[0m") == "\\u200b\\x1b[0m"


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
