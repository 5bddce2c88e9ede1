"""Pages as a browser reads them, and what holds for every page."""

import base64
import html.parser
import itertools
import re


class Page(html.parser.HTMLParser):
    """Elements of a page, by the standard library's parser; fails where tags do not nest.

    Attributes:
        elements: tag and attributes of each, in order.
        tables: for each its caption, rows of its head, and rows of its body, as lists of text.
        text: all of it, in order, without the style sheet's.
    """

    VOID = ("meta", "link", "img", "wbr")

    def __init__(self, source):
        super().__init__()
        self.elements, self.tables, self.text = [], [], ""
        self._open = []
        self.feed(source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes)
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append({"caption": "", "thead": [], "tbody": []})
        if tag == "tr":
            self.tables[-1][self._open[-2]].append([])
        if tag in ("td", "th"):
            self.tables[-1][self._open[-3]][-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" in self._open:
            return
        self.text += data
        if "caption" in self._open:
            self.tables[-1]["caption"] += data
        cells = [i for i, tag in enumerate(self._open) if tag in ("td", "th")]
        if cells:
            self.tables[-1][self._open[cells[0] - 2]][-1][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def check_page(source):
    """What holds for every page; returns it parsed."""
    page = Page(source)
    # Nothing outside: no script, no address but of the page itself or a picture within it.
    assert not page.all("script")
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            address = attributes.get(name, "#")
            assert address.startswith(("data:", "#")), address
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import", source)
    for image in page.all("img"):
        assert image["alt"].strip()
        kind, _, content = image["src"].partition(";base64,")
        begins = {"data:image/svg+xml": b"<?xml", "data:image/png": b"\x89PNG"}[kind]
        assert base64.b64decode(content, validate=True).startswith(begins)
    for table_ in page.tables:
        assert table_["caption"].strip()
        (head,) = table_["thead"]
        assert table_["tbody"]
        assert {len(row) for row in table_["tbody"]} == {len(head)}
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = [a["href"].removeprefix("#") for a in page.all("a")]
    assert links
    assert set(links) <= set(ids)
    labels = [a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a]
    assert set(labels) <= set(ids)
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(headings))
    assert headings.count(1) == 1
    assert [len(page.all(tag)) for tag in ("header", "nav", "main", "title")] == [1] * 4
    assert dict(page.elements[0][1]) == {"lang": "en"}
    return page
