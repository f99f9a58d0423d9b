"""A page as one self-contained HTML file: style and drawings inside, nothing loaded. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from pvpmu.report.page import Block, Commands, Figure, Items, Page, Table, Text

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 78em; margin: 2em auto; padding: 0 1em;
  color: #111; background: #fff }
h1 { font-size: 1.6em } h2 { font-size: 1.25em; margin-top: 2.2em; border-bottom: 1px solid #999 }
.wide { overflow-x: auto; margin: 1em 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9em }
caption { caption-side: top; text-align: left; font-weight: 600; padding: .3em 0 }
th, td { padding: .15em .7em; border-bottom: 1px solid #ddd; text-align: right;
  white-space: nowrap }
th:first-child, td:first-child { text-align: left; white-space: pre }
thead th { border-bottom: 1px solid #666; vertical-align: bottom; white-space: normal }
tbody tr:nth-child(even) { background: #f6f6f6 }
pre { background: #f2f2f2; padding: .7em; overflow-x: auto; font-size: .85em }
figure { margin: 1.2em 0 } figure svg { max-width: 100%; height: auto }
figcaption { font-size: .9em; max-width: 62em } nav { font-size: .9em }
@media print {
  body { margin: 0; max-width: none; font-size: 10pt } nav { display: none }
  figure, table { break-inside: avoid } .wide, pre { overflow: visible }
  pre { white-space: pre-wrap } table { font-size: 7pt } th, td { padding: .1em .4em }
}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_PROLOG = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_IDS = re.compile(r'(\bid="|url\(#|xlink:href="#|\bhref="#)')


def as_html(page: Page) -> str:
    """The page as text."""
    links = "\n".join(
        f'<li><a href="#{section.anchor}">{escape(section.heading)}</a></li>'
        for section in page.sections
    )
    body = "\n".join(
        f'<h2 id="{section.anchor}">{escape(section.heading)}</h2>\n{_blocks(section.blocks)}'
        for section in page.sections
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(page.title)}</title>
<style>{_STYLE}</style></head><body>
<h1>{escape(page.title)}</h1>
{_blocks(page.lead)}
<nav><ul>
{links}
</ul></nav>
{body}
</body></html>
"""


def _blocks(blocks: Iterable[Block]) -> str:
    return "\n".join(map(_block, blocks))


def _block(block: Block) -> str:
    match block:
        case Text(text):
            return f"<p>{escape(text)}</p>"
        case Items(items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case Table():
            return _table(block)
        case Commands(lines):
            return f"<pre>{escape(chr(10).join(lines))}</pre>"
        case Figure():
            return _figure(block)


def _table(table: Table) -> str:
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    rows = "\n".join(_row(row, "td") for row in table.rows)
    return (
        f'<div class="wide"><table>{caption}<thead>{_row(table.columns, "th")}</thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _figure(figure: Figure) -> str:
    # Ids must be unique in a page: each drawing has its own.
    svg = _IDS.sub(lambda found: f"{found[0]}{figure.name}-", _PROLOG.sub("", figure.svg))
    label = escape(figure.alt)
    return (
        f'<figure><div role="img" aria-label="{label}">{svg}</div>'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )
