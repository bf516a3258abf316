import dataclasses
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from reports import made_up

from jmamba.figures.labels import isolate
from jmamba.report.page import LARGE, SMALL, figure_section
from jmamba.report.text.page import text_page
from jmamba.report.text.plates import TEXT_PLATES

ATTACK = "</script><img src=x onerror=alert(1)>&'\"é\n"
PNG = b"\x89PNG"
FIGURES = {
    name: PNG
    for name in (
        "predictions",
        "drivers",
        "last_token_attention",
        "attention_maps",
        "attention_depth",
        "token_norms",
        "jacobian_norms",
    )
}


class Reader(HTMLParser):
    """Collects elements, their attributes and the visible text."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self.data, self.inside = [], "", {}, None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.inside = (tag, dict(attrs))
        self.elements.append(self.inside)

    def handle_data(self, data):
        if self.inside is not None and self.inside[0] in ("script", "style"):
            self.data[self.inside[1].get("class", self.inside[0])] = data
        else:
            self.text += data

    def handle_endtag(self, tag):
        self.inside = None

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def read():
    return Reader(text_page(made_up(ATTACK, 3), FIGURES))


def test_page_loads_nothing(read):
    assert not read.all("link") and not read.all("iframe")
    assert all(src.startswith("data:") for a in read.all("img") for src in [a["src"]])
    assert all("src" not in attrs for attrs in read.all("script"))
    assert not re.search(r"url\(|@import", read.data["style"])
    assert "://" not in read.data["style"] + read.data["script"]
    assert "fetch(" not in read.data["script"]


def test_page_links_to_files_beside_it(read):
    links = {attrs["href"] for attrs in read.all("a")}
    assert links >= {"arrays.npz", "summary.json", "drivers.png"}
    assert not any(":" in link or link.startswith("/") for link in links)


def test_page_escapes_the_text(read):
    assert len(read.all("script")) == 2
    assert not any("onerror" in attrs for _, attrs in read.elements)
    assert "</script><img src=x onerror=alert(1)>&'\"é↵" in read.text
    spans = [a for a in read.all("span") if "token" in a.get("class", "").split()]
    assert len(spans) == len(ATTACK)  # é is two tokens, but one character


def test_page_shades_without_script(read):
    spans = [a for a in read.all("span") if "token" in a.get("class", "").split()]
    assert len(spans) == len(ATTACK)
    weights = [float(a["style"].removeprefix("--w:")) for a in spans]
    assert max(weights) == 1 and min(weights) >= 0


def test_page_names_arrays_and_formulas(read):
    for name in ("attention", "left_out", "last_attention", "jacobian_norms"):
        assert name in read.text
    assert "log₂ p(target" in read.text and "exp(A[n]" in read.text


def test_pictures_are_told_in_numbers(read):
    alts = [attrs["alt"] for attrs in read.all("img")]
    assert len(alts) == len(FIGURES) - 1
    assert all(re.search(r"\d", alt) and ": " in alt for alt in alts)
    found = made_up(ATTACK, 3)
    i = found.strongest(1)[0]
    shown = f"“{isolate(found.piece_labels[i])}” {found.left_out[i]:.3g} bits"
    assert (
        f"What drove the prediction: strongest for or against “{isolate('$')}”: {shown}"
        in alts[0]
    )


def test_labels_keep_their_own_direction():
    """A line takes the text's direction; what stands in others is isolated."""
    found = made_up("שלום", 1)
    best = dataclasses.replace(found.predictions, labels=("ם", "↵"))
    html = text_page(dataclasses.replace(found, predictions=best), FIGURES)
    read = Reader(html)
    assert next(a for a in read.all("div") if a.get("class") == "text")["dir"] == "auto"
    assert '<bdi class="next">ם</bdi>\n</div>' in html
    assert "<code><bdi>ם</bdi></code>" in html
    assert '<q class="best"><bdi>ם</bdi></q>' in html
    assert f"<title>{isolate('שלום')} → {isolate('ם')} · jmamba</title>" in html
    assert "“\\u2068${label}\\u2069”" in read.data["script"]
    assert "unicode-bidi: plaintext" in read.data["style"]


def test_graphemes_are_one_span():
    found = made_up("e\u0301👩\u200d🚀x", 1)
    read = Reader(text_page(found, FIGURES))
    spans = [a for a in read.all("span") if "token" in a.get("class", "").split()]
    assert len(spans) == 3 and "e\u0301👩\u200d🚀x" in read.text


def test_figures_are_never_inverted(read):
    assert "prefers-color-scheme: dark" in read.data["style"]
    assert "invert(" not in read.data["style"]  # bright would mean little


def noise(size):
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(("size", "kind"), [(8, "png"), (150, "webp"), (150, None)])
def test_pictures_take_little_of_a_page(monkeypatch, size, kind):
    """Large ones are smaller on the page than beside it, very large ones only there."""
    png, found = noise(size), made_up("ab", 1)
    monkeypatch.setattr("jmamba.report.page.LARGE", 1000 if kind is None else LARGE)
    assert (len(png) > SMALL) == (kind != "png")
    html = figure_section(TEXT_PLATES[1], png, found)
    assert len(html) < 4 / 3 * len(png) + 3000
    if kind is None:
        assert "beside this page only" in html and "<img" not in html
    else:
        assert f'src="data:image/{kind};base64,' in html
    assert "strongest for or against" in html and "drivers.png" in html


def test_page_data_holds_what_each_token_did(read):
    data = json.loads(read.data["data"])
    found = made_up(ATTACK, 3)
    assert data["labels"][-1] == "↵"
    assert data["spans"][-1] == [len(found.ids) - 1, len(found.ids)]
    by_name = {one["name"]: one["values"][0] for one in data["series"]}
    np.testing.assert_allclose(by_name["leaving each out"], found.left_out, rtol=1e-3)
    total = found.relevance["mamba_lrp"].sum()
    assert sum(by_name["mamba lrp"]) == pytest.approx(total, abs=1e-2)


def test_page_of_a_text_without_matrices_has_fewer_figures():
    found = dataclasses.replace(made_up("ab", 1, matrices=False), jacobian=None)
    few = {name: PNG for name in ("predictions", "drivers", "token_norms")}
    read = Reader(text_page(found, few))
    assert [attrs["id"] for attrs in read.all("figure")] == ["drivers", "token_norms"]
