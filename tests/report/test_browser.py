"""Pages in a real headless Chromium: hand, keys, themes, widths, accessibility."""

import json
import re

import numpy as np
import pytest
from browser import find_chromium, read_axe
from reports import made_up, tiny_model

from jmamba.checkpoints import ByteTokenizer
from jmamba.report import TextComparison, measure_lens, measure_patches
from jmamba.report.compare.page import comparison_page
from jmamba.report.lens.page import lens_page
from jmamba.report.lens.plates import LENS_PLATES
from jmamba.report.patch.page import patch_page
from jmamba.report.patch.plates import PATCH_PLATES
from jmamba.report.text.page import text_page
from jmamba.report.text.shown import maps_of, view_of
from jmamba.report.view.view import render_fragment, render_view

pytestmark = pytest.mark.exhaustive
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

PICTURES = [plate.name for plate in (*LENS_PLATES, *PATCH_PLATES)]
TEXT = "The né\tcat 👩\u200d🚀 sat.\nשלום on a mat"


def found_pairs():
    """Return an explanation that has everything a view can show."""
    found = made_up(TEXT, 3)
    rng, attention = np.random.default_rng(1), found.attention
    assert attention is not None
    return found.__class__(
        **vars(found)
        | {
            "groups": {k: attention * rng.random(attention.shape) for k in ("a", "b")},
            "folded": attention * rng.random(attention.shape),
            "rollout": attention.sum(axis=0),
            "settings": {
                "top": 2,
                "skipped": {"jacobian": "It would take a <b>week</b>."},
            },
        }
    )


FOUND = found_pairs()
PIECES = len(FOUND.pieces)
SHOWN = render_view(view_of(FOUND))


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(text_page(FOUND, {}), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def visit(chromium):
    """Open pages, and assert at the end that nothing went wrong in any."""
    complaints, pages = [], []

    def open_page(address, width=1280, scheme="light"):
        page = chromium.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        page.on("console", lambda said: complaints.append(said.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: requested(asked.url))
        page.goto(address)
        page.wait_for_selector(".jmamba-view[data-state=ready]")
        pages.append(page)
        return page

    def requested(url):
        if not url.startswith(("file:", "data:", "blob:", "about:")):
            complaints.append(f"asked the network for {url}")

    yield open_page
    for page in pages:
        page.close()
    assert not complaints


@pytest.fixture
def page(visit, address):
    return visit(address)


def token(page, i):
    return page.locator(".token").nth(i)


def weights(page):
    """Return how each token is shaded: kind and weight."""
    return page.eval_on_selector_all(
        ".token",
        "all => all.map(e => [e.className.split(' ')[1],"
        " Number(e.style.getPropertyValue('--w'))])",
    )


def expect_between(page, shares, focus):
    """Assert that tokens are shaded by what one reads, and by what reads it."""
    expected = np.concatenate([shares[focus, : focus + 1], shares[focus + 1 :, focus]])
    expected = np.sqrt(expected / expected.max())
    kinds, found = zip(*weights(page), strict=True)
    assert list(kinds) == ["reads" if j <= focus else "read" for j in range(PIECES)]
    np.testing.assert_allclose(found, np.where(expected < 0.03, 0, expected), atol=0.02)


def choose(page, name, label):
    page.select_option(f"select[name={name}]", label=label)


def test_a_click_shows_what_a_token_reads_and_what_reads_it(page):
    token(page, 8).click()
    shares = maps_of(FOUND)[0].shares
    expect_between(page, shares.mean(axis=0), 8)
    assert page.input_value("select[name=shade]") == "m0"
    panel = page.inner_text(".panel")
    best = int(np.argmax(shares.mean(axis=0)[8, :9]))
    assert f"{100 * shares.mean(axis=0)[8, best]:.1f}"[:3] in panel
    assert "reads" in panel and "is read by" in panel
    assert page.inner_text(".said").startswith(f"“\u2068{FOUND.piece_labels[8]}\u2069”")


def test_hovering_shows_a_token_until_the_hand_leaves(page):
    choose(page, "shade", "hidden attention")
    shares = maps_of(FOUND)[0].shares.mean(axis=0)
    token(page, 5).hover()
    expect_between(page, shares, 5)
    page.mouse.move(2, 2)
    expect_between(page, shares, PIECES - 1)


def test_layers_channels_and_measures_are_chosen(page):
    by_title = {one.title: one for one in maps_of(FOUND)}
    token(page, 9).click()
    page.mouse.move(2, 2)
    page.locator("input[name=layer]").fill("2")  # the mean comes first
    expect_between(page, by_title["hidden attention"].shares[1], 9)
    choose(page, "of", "b")
    expect_between(page, by_title["hidden attention, b"].shares[1], 9)
    choose(page, "shade", "unified attention")
    expect_between(page, by_title["unified attention"].shares[1], 9)
    choose(page, "shade", "rollout")
    assert page.locator("input[name=layer]").is_hidden()
    expect_between(page, by_title["rollout"].shares[0], 9)


def test_a_direction_shades_only_that(page):
    token(page, 9).click()
    choose(page, "direction", "what it reads")
    assert all(weight == 0 for kind, weight in weights(page) if kind == "read")
    choose(page, "direction", "who reads it")
    assert all(weight == 0 for kind, weight in weights(page) if kind == "reads")
    assert any(weight > 0 for _, weight in weights(page))


def test_a_threshold_hides_what_is_weak(page):
    token(page, 9).click()
    page.locator("input[name=threshold]").fill("7")
    assert "50 % of the strongest" in page.inner_text(".controls")
    shown = [weight for _, weight in weights(page) if weight]
    assert shown and min(shown) >= 0.5**0.5 - 1e-3


def test_keys_move_the_token_and_the_layer(page):
    page.keyboard.press("Tab")
    while page.evaluate("document.activeElement.className.includes('token')") is False:
        page.keyboard.press("Tab")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    at = "Number(document.activeElement.dataset.i)"
    assert page.evaluate(at) == 1
    page.keyboard.press("Enter")
    assert page.input_value("select[name=shade]") == "m0"
    page.keyboard.press("PageDown")
    assert "layer 0" in page.inner_text(".controls")
    assert "layer 0" in page.inner_text(".said")
    expect_between(page, maps_of(FOUND)[0].shares[0], 1)
    page.keyboard.press("ArrowDown")
    end = FOUND.piece_labels.index("↵")
    assert page.evaluate(at) > end
    page.keyboard.press("ArrowUp")
    assert page.evaluate(at) <= end
    page.keyboard.press("Escape")
    assert page.input_value("select[name=shade]") == "s0"
    assert weights(page)[0][0] in ("toward", "against")


def test_one_stop_for_tab_and_names_for_those_who_listen(page):
    stops = page.eval_on_selector_all(".token", "all => all.map(e => e.tabIndex)")
    assert sorted(stops)[-1] == 0 and stops.count(0) == 1
    tree = page.locator(".jmamba-view").aria_snapshot()
    assert f'listbox "The text: {PIECES} tokens"' in tree
    for name in ("Shade by", "Hide below", "status"):
        assert name in tree
    assert f'option "{FOUND.piece_labels[0]}"' in tree


def test_what_is_left_out_is_said(page):
    assert "Left out (jacobian): It would take a <b>week</b>." in page.inner_text(
        "main"
    )


def test_blanks_and_scripts_are_shown_as_characters(page):
    shown = page.inner_text(".tokens")
    assert "⇥" in shown and "↵\n" in shown and "👩\u200d🚀" in shown and "שלום" in shown
    assert page.locator(".token").count() == PIECES < len(FOUND.ids)


@pytest.mark.parametrize("width", [390, 1280, 3840])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_follows_axe(visit, address, width, scheme):
    """Both as it opens and with a token chosen."""
    axe, page = read_axe(), visit(address, width, scheme)
    page.evaluate(axe)
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    for act in (lambda: None, lambda: token(page, 12).click()):
        act()
        assert page.evaluate(wide) <= 0
        found = page.evaluate("axe.run()")
        assert [broken(rule) for rule in found["violations"]] == []


def broken(rule):
    return rule["id"], [node["html"] for node in rule["nodes"]]


def test_several_fragments_of_a_notebook_keep_to_themselves(visit, tmp_path):
    cells = [render_fragment(f"<p>{k}</p>{SHOWN}") for k in range(2)]
    path = tmp_path / "notebook.html"
    body = f"<p class=token>outside</p>{cells[0]}<hr>{cells[1]}"
    head = '<!doctype html><html lang="en"><title>n</title><meta charset="utf-8">'
    path.write_text(f"{head}<script>known = Object.keys(window)</script>{body}")
    page = visit(path.as_uri())
    page.wait_for_selector("hr ~ div .jmamba-view[data-state=ready]")
    first, second = (page.locator(".jmamba-view").nth(k) for k in range(2))
    first.locator(".token").nth(4).click()
    page.mouse.move(1, 1)
    assert first.locator("select[name=shade]").input_value() == "m0"
    assert second.locator("select[name=shade]").input_value() == "s0"
    new = page.evaluate("Object.keys(window).filter(k => !known.includes(k))")
    assert set(new) <= {"known"}
    outside = "getComputedStyle(document.querySelector('p.token')).cursor"
    assert page.evaluate(outside) == "auto"


def test_a_fragment_put_in_later_starts_its_view(visit, address):
    """As notebooks do it: scripts are made anew where HTML is put into a page."""
    page = visit(address)
    html = json.dumps(render_fragment(SHOWN))
    page.evaluate(f"""
        const cell = document.createElement("div");
        cell.innerHTML = {html};
        document.body.append(cell);
        for (const old of cell.querySelectorAll("script:not([type])")) {{
          const script = document.createElement("script");
          script.textContent = old.textContent;
          old.replaceWith(script);
        }}""")
    page.wait_for_selector(".jmamba-cell .jmamba-view[data-state=ready]")


def test_the_page_reads_without_scripts(chromium, address):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator(".controls").is_hidden()
    shaded = page.locator(".token").first.get_attribute("style")
    assert shaded is not None and re.fullmatch(r"--w:[01]\.\d{3}", shaded)
    context.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    both = TextComparison(FOUND, made_up("another text", 3), ("first", "second"))
    path = tmp_path_factory.mktemp("pair") / "index.html"
    path.write_text(comparison_page(both, {"comparison": b""}), encoding="utf-8")
    return path.as_uri()


def test_two_views_are_chosen_together(visit, pair):
    page = visit(pair)
    page.wait_for_selector("section + section .jmamba-view[data-state=ready]")
    first, second = (page.locator(".jmamba-view").nth(k) for k in range(2))
    first.locator(".token").nth(3).click()
    page.mouse.move(1, 1)
    assert second.locator("select[name=shade]").input_value() == "m0"
    second.locator("input[name=layer]").fill("2")
    assert "layer 1" in first.locator(".controls").inner_text()
    assert second.locator(".token.chosen").get_attribute("data-i") == "11"  # its own
    first.locator("select[name=shade]").select_option("rollout")  # only there
    assert second.locator("select[name=shade]").input_value() == "m0"


def test_pages_of_comparisons_lenses_and_patches_follow_axe(visit, pair, tmp_path):
    model, axe = tiny_model(2), read_axe()
    lens = measure_lens(model, ByteTokenizer(), "né is")
    patches = measure_patches(model, ByteTokenizer(), "né is", "né as", place="output")
    pages = {"pair": pair}
    pictures = dict.fromkeys(PICTURES, b"")
    written = {
        "lens": lens_page(lens, pictures),
        "patch": patch_page(patches, pictures),
    }
    for name, html in written.items():
        path = tmp_path / f"{name}.html"
        path.write_text(html, encoding="utf-8")
        pages[name] = path.as_uri()
    for name, address in pages.items():
        page = visit(address)
        page.evaluate(axe)
        found = page.evaluate("axe.run()")
        assert [broken(rule) for rule in found["violations"]] == [], name
        if name != "pair":
            layers = re.findall(r"layer \d", page.inner_text(".panel"))
            assert len(layers) == 2 and len(set(layers)) == 1  # both of one layer
            token(page, 1).hover()
            page.locator("input[name=layer]").fill("0")
            token(page, 1).hover()
            assert "layer 0" in page.inner_text(".panel")
