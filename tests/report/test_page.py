import json
import re
from html.parser import HTMLParser

import pytest

from jaxinterp.report import Feature, Report, write_page


class Elements(HTMLParser):
    """Every element of a page and what is written in it."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text, self.inside = [], [], None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, data):
        self.text.append((self.inside, data))

    def data(self):
        """The JSON that the page is drawn from."""
        texts = [text for tag, text in self.text if tag == "script" and text.startswith("{")]
        return json.loads(texts[0])


def page_of(report, folder):
    path = folder / "report.html"
    write_page(path, report)
    return path.read_text("utf-8")


def test_one_file_that_loads_nothing(report, tmp_path):
    page = page_of(report, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    for tag, attributes in Elements(page).found:
        assert "src" not in attributes, tag
        assert attributes.get("href", "#").startswith(("#", "data:")), tag
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
    # The one address is the name of SVG's vocabulary.
    assert set(re.findall(r"\w+://[^\"'\s]*", page)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in page
    assert "url(" not in page
    assert "default-src 'none'" in page


def test_text_is_never_markup(hostile, tmp_path):
    elements = Elements(page_of(hostile, tmp_path))
    tags = [tag for tag, _ in elements.found]
    assert "img" not in tags
    assert tags.count("script") == 2
    data = elements.data()
    assert data["features"][0]["promoted"][0][0].startswith("</script><img")
    assert data["vocabulary"][1:4] == ["\u202e\u2028", "\ud800", "\n\n\t"]
    notes = [text for tag, text in elements.text if tag == "li"]
    assert "$title ${data}" in notes


def test_contexts_share_a_vocabulary(report, tmp_path):
    data = Elements(page_of(report, tmp_path)).data()
    context = report.features[0].contexts[0]
    document, focus, ids, active = data["features"][0]["packed"][0]
    assert (document, focus) == (context.document, context.focus)
    assert tuple(data["vocabulary"][i] for i in ids) == context.tokens
    values = dict(zip(active[::2], active[1::2], strict=True))
    assert values[focus] == pytest.approx(context.activations[focus], rel=1e-4)
    assert set(values) == {i for i, a in enumerate(context.activations) if a}


def test_metrics_and_profile_are_readable_without_script(report, tmp_path):
    page = page_of(report, tmp_path)
    assert 'target ≥ 0.900: <span class="missed">not met</span>' in page
    assert 'target ≥ 0.800: <span class="met">met</span>' in page
    assert "<td>1</td><td>n/a</td><td>11.73 ± 0.50</td><td>4,096</td>" in page


def test_numbers_that_are_missing(tmp_path):
    feature = Feature(0, float("nan"), float("nan"), None, promoted=(("a", float("nan")),))
    data = Elements(page_of(Report("t", features=(feature,)), tmp_path)).data()["features"][0]
    assert (data["frequency"], data["peak"], data["promoted"]) == (None, None, [["a", None]])


def test_empty_report(tmp_path):
    data = Elements(page_of(Report("Nothing yet"), tmp_path)).data()
    assert (data["features"], data["profile"], data["vocabulary"]) == ([], [], [])


def test_same_bytes_each_time(report, tmp_path):
    assert page_of(report, tmp_path) == page_of(report, tmp_path)


def test_a_failed_write_leaves_the_old_page(report, tmp_path, monkeypatch):
    page_of(report, tmp_path)
    before = (tmp_path / "report.html").read_text("utf-8")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_page(tmp_path / "report.html", Report("other"))
    assert (tmp_path / "report.html").read_text("utf-8") == before
