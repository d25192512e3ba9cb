"""The page of a diagnosis: it stands alone, whatever the titles; and its charts."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from small_diagnoses import QUICK, diagnosed, trained, whole

import recvae
from data_prep import sample
from recvae.reports import svg
from recvae.reports.diagnosis_page import page


@pytest.fixture(scope="module")
def data():
    return sample().dataset()


class Page(HTMLParser):
    """Every element with its attributes, the JSON, and whether all elements are closed in order."""

    VOID = ("meta", "br")

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.data, self.text = [], [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.data += data
        else:
            self.text.append(data)


def test_the_page_stands_alone_and_titles_are_harmless(data):
    model, rows = trained(recvae.MultVAE, data, epochs=2, **QUICK)
    titles, evil = list(model.items.titles), '<script>alert("1")</script> & </script>'
    top = int(np.bincount(data.train.indices).argmax())
    model.items.titles[top] = evil
    try:
        found = whole(diagnosed(model, rows, data))
    finally:
        model.items.titles[:] = titles
    text = page(found)
    parsed = Page(text)
    assert parsed.open == []
    scripts = [attributes for tag, attributes in parsed.elements if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "diagnosis"}]
    assert json.loads(parsed.data) == json.loads(json.dumps(found))
    assert json.loads(parsed.data)["items"]["points"][0]["title"] == evil
    assert any(evil[:20] in piece for piece in parsed.text)  # as text it is there, whole in what a dot says
    names = {name for _, attributes in parsed.elements for name in attributes}
    assert not names & {"src", "srcset", "onload", "onclick", "background", "action", "style"}
    links = [attributes["href"] for tag, attributes in parsed.elements if "href" in attributes]
    ids = {attributes.get("id") for _, attributes in parsed.elements}
    assert links
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert "url(" not in text
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("svg") == 4 + 3 + 1 + 2 + 1
    assert tags.count("circle") > 500
    assert tags.count("table") == 6
    assert "nan" not in re.findall(r'(?:x|y|cx|cy|r|height|width|points)="([^"]*)"', text)
    assert not any("nan" in value or "inf" in value for value in re.findall(r'="([-0-9., nainf]*)"', text))


@pytest.mark.parametrize("name", ["mult-vae", "recvae"])
def test_a_run_of_one_epoch_can_be_drawn(data, name):
    kind = {"mult-vae": recvae.MultVAE, "recvae": recvae.RecVAE}[name]
    hidden = (8,) if name == "mult-vae" else 8
    model, rows = trained(kind, data, epochs=1, hidden=hidden, latent=1, device="cpu", seed=1, batch_size=500)
    found = diagnosed(model, rows, data, samples=2, users=2)
    assert Page(page(whole(found))).open == []
    json.dumps(found, allow_nan=False)


def test_ticks_are_round_and_within():
    for low, high in ((0, 1), (-3.2, 7.7), (0.011, 0.0131), (99.5, 100.1), (0, 123456)):
        found = svg.ticks(low, high)
        assert 2 <= len(found) <= 8
        assert low <= found[0] + 1e-9
        assert found[-1] <= high + 1e-9
        steps = np.diff(found)
        np.testing.assert_allclose(steps, steps[0])
        assert f"{steps[0]:.0e}"[0] in "125"


def test_charts_escape_their_words():
    bad = '<b>&"'
    charts = (
        svg.line_chart(bad, [svg.Line(bad, [1, 2], [1, 1])], x_label=bad),
        svg.bar_chart(bad, [svg.Bar(bad, 0.0, about=bad)], x_label=bad),
        svg.scatter(bad, [svg.Point(0, 0, 1, bad, bad), svg.Point(0, 0, 1, bad)]),
    )
    for chart in charts:
        assert "<b>" not in chart
        assert Page(chart).open == []


def test_labels_of_a_map_do_not_lie_on_each_other():
    crowd = [svg.Point(0.001 * n, 0.0, 3, "", f"a title {n}") for n in range(30)]
    corners = [svg.Point(-1, -1, 1, ""), svg.Point(1, 1, 1, "")]
    shown = re.findall(r'class="label" x="([\d.]+)" y="([\d.]+)"', svg.scatter("", [*crowd, *corners]))
    assert 2 <= len(shown) < 30
    assert len({y for _, y in shown}) * 2 >= len(shown)


def test_names_on_an_axis_neither_touch_nor_leave_the_chart():
    for xs in ([1, 10, 100, 1000], [1, 10, 100, 110], [1, 2], [1, 10, 100, 1000, 10000]):
        chart = svg.line_chart("", [svg.Line("", xs, [1.0] * len(xs))], x_label="", log_x=True)
        width = int(re.search(r'viewBox="0 0 (\d+)', chart)[1])
        names = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="middle">([\d,]+)<', chart)
        spans = [(float(x) - 3 * len(name), float(x) + 3 * len(name)) for x, name in names]
        assert names[-1][1] == f"{xs[-1]:,}"
        assert spans[-1][1] <= width
        assert all(right < left for (_, right), (left, _) in pairwise(spans))


def test_what_is_next_to_nothing_looks_like_it():
    """The bars of a collapsed code do not fill the chart, and the chart says why it is empty."""

    def tallest(value):
        chart = svg.bar_chart("", [svg.Bar("", value)] * 20, x_label="", least=0.02)
        return max(map(float, re.findall(r'height="([\d.]+)"', chart))), "none above" in chart

    assert tallest(1.0) == (pytest.approx(tallest(0.5)[0]), False)
    assert tallest(0.002)[0] < 0.11 * tallest(1.0)[0]
    assert tallest(2e-5) == (0.4, True)
    assert "none above" not in svg.bar_chart("", [svg.Bar("", 2e-5)], x_label="", least=0.02, log_y=True)


def test_curves_that_are_not_negative_can_begin_at_zero():
    def heights(values, **options):
        chart = svg.line_chart("", [svg.Line("", [1, 2], values)], x_label="", **options)
        return [float(y) for y in re.findall(r'cy="([\d.]+)"', chart)]

    constant, rising, zero = (heights(values, from_zero=True) for values in ([50, 50], [1, 2], [0, 0]))
    assert constant[0] == constant[1] < 60  # of 220, from the top
    assert zero[0] > 180
    assert rising[0] - rising[1] == pytest.approx((186 - 26) * 1 / 2.06, abs=0.2)
    assert heights([-1, 2], from_zero=True) == heights([-1, 2])
