"""The view of tokens: what a page stores of it, and how exactly."""

import base64
import json
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import made_up
from test_page import Reader

from jmamba.report.text.shown import maps_of, view_of
from jmamba.report.view.maps import PairMap, Series, name_layers
from jmamba.report.view.packing import STEPS, WHOLE, encode_rows, pack_maps, restore
from jmamba.report.view.view import TokenView, render_fragment, render_view

TEXT = "né\tש 👩\u200d🚀\n"


def random_map(layers, count, *, seed=0, whole=True):
    rng = np.random.default_rng(seed)
    shares = rng.lognormal(size=(layers, count, count)) * np.tri(count)
    shares = (shares / shares.sum(axis=-1, keepdims=True)).astype(np.float32)
    made = PairMap("attention", shares, name_layers(range(layers)))
    return made if whole else made.of_last()


def unpack(entry, count):
    """Read what a page stores, as its script does: numbers one after the other."""
    data = zlib.decompress(base64.b64decode(entry["data"]))
    depth = max(1, len(entry["layers"]))
    rows = count if entry["whole"] else 1
    scales = np.frombuffer(data, "<u2", depth * rows).reshape(depth, rows) / WHOLE
    codes = np.frombuffer(data, np.uint8, offset=2 * depth * rows).reshape(depth, -1)
    found = np.zeros((depth, rows, count))
    for layer in range(depth):
        start = 0
        for i in range(rows):
            stop = start + (i + 1 if entry["whole"] else count)
            part = codes[layer, start:stop] / entry["steps"]
            found[layer, i, : stop - start] = scales[layer, i] * part**2
            start = stop
    return found


@pytest.mark.parametrize("whole", [True, False])
def test_what_is_stored_is_what_was_measured(whole):
    one = random_map(2, 7, whole=whole)
    packed = pack_maps([one])
    found = unpack(packed.maps[0], 7)
    np.testing.assert_allclose(found, one.shares, atol=1.01 * packed.error)
    assert np.abs(found - one.shares).max() == pytest.approx(packed.error, rel=1e-2)
    assert packed.error < 1 / STEPS[0]


@given(st.integers(0, 99), st.sampled_from(STEPS))
def test_codes_are_as_exact_as_they_say(seed, steps):
    one = random_map(1, 6, seed=seed)
    back = restore(one, *encode_rows(one, steps), steps)
    largest = np.repeat(one.shares.max(axis=-1), np.arange(1, 7), axis=1)
    off = np.abs(back - one.rows)
    assert (off <= largest / steps + 2 / WHOLE).all()
    near = np.sqrt(one.rows * largest) / steps + largest / (4 * steps**2)
    assert (off <= near + 2 / WHOLE).all()


def test_rows_of_nothing_stay_nothing():
    one = PairMap("attention", np.zeros((1, 3, 3), np.float32))
    assert not unpack(pack_maps([one]).maps[0], 3).any()


def test_maps_are_coarser_where_there_is_little_room():
    one = random_map(3, 40)
    sizes = [len(pack_maps([one], limit).maps[0]["data"]) for limit in (10**6, 2200)]
    coarse = pack_maps([one], 2200)
    assert sizes[1] <= 2200 < sizes[0] and not coarse.left_out
    assert coarse.maps[0]["steps"] < STEPS[0] and coarse.maps[0]["whole"]
    assert pack_maps([one]).error < coarse.error < 1 / coarse.maps[0]["steps"]


def test_what_there_is_no_room_for_is_left_out_and_says_what_it_takes():
    one = random_map(3, 40)
    packed = pack_maps([one, one._replace(name="other")], 700)
    assert [entry["whole"] for entry in packed.maps] == [False]
    assert set(packed.left_out) == {"attention", "other"}
    assert "it would take 0.00 MB" in packed.left_out["attention"]
    np.testing.assert_allclose(
        unpack(packed.maps[0], 40)[:, 0], one.shares[:, -1], atol=1.01 * packed.error
    )


@pytest.mark.exhaustive
def test_a_long_text_of_many_layers_fits_on_a_page():
    """512 tokens x 24 layers of noise, which nothing makes smaller."""
    html = render_view(
        TokenView(
            "text",
            *pieces_of(512),
            [Series("bits", np.ones((1, 512)), "bits", "for", "against")],
            [random_map(24, 512)],
        )
    )
    assert len(html) < 1.8e6 and "Left out" not in html


def pieces_of(count):
    found = made_up("a" * count, 1)
    return found.pieces, found.piece_labels


def test_maps_of_a_text_are_of_its_characters():
    """A character reads what its last byte reads, and is read as all of its bytes."""
    found = made_up(TEXT, 2)
    attention, jacobian = maps_of(found)
    count = len(found.pieces)
    assert attention.shares.shape == (2, count, count) and count < len(found.ids)
    np.testing.assert_allclose(attention.shares.sum(axis=-1), 1, atol=1e-5)
    last, e = found.pieces[3], found.pieces[1]
    assert found.attention is not None
    row = found.attention[1, last.stop - 1]
    assert attention.shares[1, 3, 1] == pytest.approx(
        row[e.start : e.stop].sum() / row.sum(), rel=1e-4
    )
    assert jacobian.layers == () and jacobian.name == "Jacobian"


def test_a_text_without_matrices_shows_what_its_last_token_reads():
    attention, *_ = maps_of(made_up("abé", 2, matrices=False))
    assert not attention.is_whole and attention.shares.shape == (2, 1, 3)


def test_every_script_reads_as_characters_and_blanks_are_visible():
    read = Reader(render_view(view_of(made_up(TEXT, 1))))
    shown = [a for a in read.all("span") if "token" in a.get("class", "").split()]
    assert len(shown) == 7 and "né⇥ש 👩\u200d🚀↵" in read.text
    assert json.loads(read.data["data"])["labels"][5:] == ["👩\u200d🚀", "↵"]


def test_a_fragment_brings_all_it_needs_and_names_nothing_outside():
    html = render_fragment(render_view(view_of(made_up("ab", 1))))
    read = Reader(html)
    assert not any("id" in attrs for _, attrs in read.elements)
    assert read.data["script"].strip().startswith("(() => {")
    assert "window" not in read.data["script"] and "body" not in read.data["style"]
    rules = read.data["style"].replace("{", "\n").splitlines()
    selectors = [line for line in rules if line.startswith(".")]
    assert selectors and all(line.startswith(".jmamba") for line in selectors)
