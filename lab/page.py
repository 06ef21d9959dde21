"""Pieces of an HTML page that needs no other file, no network and no JavaScript.

Functions whose name begins with a piece of HTML return text that is ready to be put into the page; what they take is
plain text and escaped here, unless a name ends with _html.
"""

from html import escape
from typing import NamedTuple

MOST_CHARACTERS = 700   # shown of a text

STYLE = '''
body { margin: 0 auto; max-width: 68rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a;
       background: #fff; overflow-wrap: anywhere; }
h1, h2, h3, h4 { line-height: 1.25; margin: 1.6em 0 0.5em; }
h1 { margin-top: 0.3em; }
h2 { border-bottom: 2px solid #1a1a1a; }
a { color: #0b57a4; }
nav ul { margin: 0; padding-left: 1.2rem; }
.demo { background: #fff3cd; border: 1px solid #b58900; padding: 0.4rem 0.8rem; font-weight: bold; }
.note { color: #444; font-size: 0.9rem; }
.scroll { overflow-x: auto; margin: 0 0 0.6rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.caption { font-weight: bold; margin: 0.8rem 0 0.2rem; }
th, td { border: 1px solid #bbb; padding: 0.2rem 0.55rem; text-align: right; overflow-wrap: normal; }
th { background: #f1f1f1; }
td, th[scope=row] { white-space: nowrap; }
th[scope=row] { font-weight: normal; }
th[scope=row], th:first-child, th.text, td.text { text-align: left; }
tr.more th { padding-left: 1.8rem; }
tr.sum th { font-weight: bold; }
.row { display: flex; flex-wrap: wrap; gap: 0.5rem 2rem; align-items: flex-start; }
.row > * { max-width: 100%; }
figure { margin: 0.5rem 0; flex: 0 1 29rem; min-width: 0; }
figcaption { font-size: 0.9rem; }
svg.figure { display: block; width: 100%; height: auto; }
svg.figure text { font: 12.5px system-ui, sans-serif; fill: #1a1a1a; }
.legend span { margin-right: 1.4rem; display: inline-block; }
svg.swatch { width: 34px; height: 10px; margin-right: 0.4rem; }
ol.mistakes { padding-left: 1.8rem; }
ol.mistakes li { margin-bottom: 0.8rem; }
ol.mistakes p { margin: 0.1rem 0; }
blockquote { margin: 0.2rem 0; padding: 0.1rem 0.7rem; border-left: 3px solid #bbb; white-space: pre-wrap; }
code { font-size: 0.9em; }
@media (max-width: 30rem) {
  table { font-size: 0.9rem; }
  th, td { padding: 0.15rem 0.35rem; }
  svg.figure text { font-size: 13.5px; }
}
@page { margin: 14mm; }
@media print {
  body { font-size: 10pt; max-width: none; padding: 0; }
  section.task ~ section.task { break-before: page; }
  .row { display: block; }
  .row > * { display: inline-block; vertical-align: top; margin-right: 1rem; }
  .row > figure { width: 46%; }
  .scroll { overflow: visible; }
  th, td { padding: 0.1rem 0.35rem; }
  td.text, th[scope=row] { white-space: normal; overflow-wrap: break-word; }
  figure, tr, ol.mistakes li, blockquote { break-inside: avoid; }
  h2, h3, h4, .caption, .legend { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
'''


class Words(str):
    """A cell of a table with words, which stand at the left."""


class Shaded(NamedTuple):
    """A cell whose background is the darker the larger the share; black on it is legible."""
    text: str
    share: float


def heading(level, text, anchor=''):
    """A heading; those with an anchor can be linked to."""
    identity = f' id="{escape(anchor)}"' if anchor else ''
    return f'<h{level}{identity}>{escape(text)}</h{level}>'


def paragraph(text, kind=''):
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f'<p>{escape(text)}</p>'


def table(caption, head, rows, kinds=()):
    """A table in a box of its own to scroll in. The first cell of a row is its header; numbers stand at the right.
    kinds: a class for each row. The caption is outside, where it wraps on a narrow screen."""
    lines = [f'<tr>{"".join(map(head_cell, head))}</tr>']
    for i, (first, *cells) in enumerate(rows):
        kind = f' class="{kinds[i]}"' if kinds else ''
        lines.append(f'<tr{kind}><th scope="row">{escape(str(first))}</th>{"".join(map(cell, cells))}</tr>')
    label = f'aria-label="{escape(caption)}"'
    return (f'<div>{paragraph(caption, "caption")}<div class="scroll" tabindex="0" role="region" {label}>'
            f'<table {label}>{"".join(lines)}</table></div></div>')


def head_cell(value):
    kind = ' class="text"' if isinstance(value, Words) else ''
    return f'<th{kind}>{escape(value)}</th>'


def cell(value):
    """Of a table: a Shaded value, a text or a number."""
    if isinstance(value, Shaded):
        return f'<td style="background: rgb(0 114 178 / {0.5 * value.share:.2f})">{escape(value.text)}</td>'
    if isinstance(value, Words):
        return f'<td class="text">{escape(value)}</td>'
    return f'<td>{escape(str(value))}</td>'


def figure(svg_html, caption):
    return f'<figure>{svg_html}<figcaption>{escape(caption)}</figcaption></figure>'


def row(*pieces_html):
    return f'<div class="row">{"".join(pieces_html)}</div>'


def quotation(text):
    """A text of the data, cut where it is very long."""
    shown = text
    if len(text) > MOST_CHARACTERS:
        shown = f'{text[:MOST_CHARACTERS]} \N{HORIZONTAL ELLIPSIS} ({len(text):,} characters)'
    return f'<blockquote dir="auto">{escape(shown)}</blockquote>'


def document(title, notes_html, contents_html, main_html):
    """The whole page. contents_html: the entries of the table of contents, <li> each."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"        # a browser loads nothing, whatever a text holds
    return f'''<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>{heading(1, title)}{notes_html}</header>
<nav aria-label="Contents"><ul>{contents_html}</ul></nav>
<main>
{main_html}
</main>
</body>
</html>
'''
