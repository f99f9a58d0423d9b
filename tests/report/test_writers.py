"""HTML and Markdown of one page: whole, escaped, and nothing loaded from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from pvpmu.report.html import as_html
from pvpmu.report.markdown import as_markdown
from pvpmu.report.page import Block, Commands, Figure, Items, Page, Section, Table, Text

HOSTILE = "<script>alert(1)</script> & \"x\" | `y` *z* _w_ $a$ [l](http://h) 'q'"
SVG = '<?xml version="1.0"?>\n<svg><defs><path id="p1"/></defs><use xlink:href="#p1"/></svg>'


def page_with(*blocks: Block) -> Page:
    return Page(HOSTILE, [Text(HOSTILE)], [Section(f"In {HOSTILE}", list(blocks))])


PAGE = page_with(
    Items([HOSTILE]),
    Table(["", HOSTILE], [["  indented", HOSTILE]], HOSTILE),
    Commands([HOSTILE]),
    Figure("one", SVG, HOSTILE, HOSTILE),
    Figure("two", SVG, HOSTILE, HOSTILE),
)


class Reader(HTMLParser):
    """Collects texts, ids and everything that could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"src", "href", "xlink:href", "data", "action"}:
                self.links.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


def test_html_shows_texts_and_runs_none_of_them() -> None:
    reader = read(as_html(PAGE))
    assert "script" not in reader.tags
    assert reader.text.count(HOSTILE) >= 8


def test_html_loads_nothing() -> None:
    text = as_html(PAGE)
    assert all(link.startswith("#") for link in read(text).links)
    assert "default-src 'none'" in text
    assert "@import" not in text
    assert "url(http" not in text


def test_ids_are_unique_and_links_find_them() -> None:
    reader = read(as_html(PAGE))
    assert len(set(reader.ids)) == len(reader.ids)
    assert {link.removeprefix("#") for link in reader.links} <= set(reader.ids)
    assert {"one-p1", "two-p1"} <= set(reader.ids)


def test_a_drawing_stands_without_its_prolog_and_says_what_it_shows() -> None:
    text = as_html(PAGE)
    assert "<?xml" not in text
    assert text.count('role="img" aria-label="&lt;script&gt;') == 2


def test_markdown_escapes_what_it_would_read_otherwise() -> None:
    text = as_markdown(PAGE, "images", "a note")
    assert text.startswith("<!-- a note -->\n\n# \\<script\\>")
    outside = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    assert not re.search(r"(?<!\\)<script", outside)
    assert "](http" not in re.sub(r"\\\]", "", outside)
    assert "![" in text
    assert "](images/one.svg)" in text


def test_every_row_of_a_markdown_table_has_as_many_cells() -> None:
    text = as_markdown(PAGE, "images", "")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 3
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}


def test_an_indented_label_stays_indented() -> None:
    assert "| \N{NO-BREAK SPACE}\N{NO-BREAK SPACE}indented |" in as_markdown(PAGE, "i", "")


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [("In short", "in-short"), ("What? <b>", "what-b"), ("x, and y", "x-and-y")],
)
def test_a_heading_is_an_anchor(heading: str, anchor: str) -> None:
    assert Section(heading, []).anchor == anchor
