"""The parts of pages that load nothing else: the shell with its style, tables, charts and folded parts.

A page has no script, is read in light and in dark, on paper and by keyboard, and holds its numbers as JSON.
"""

import json
from collections.abc import Sequence

from recvae.files import Document
from recvae.reports.text import in_html as escape
from recvae.reports.text import visible_json

Rows = Sequence[Sequence[str]]

_CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1b1b; --quiet: #5c5c5c; --line: #dcdcdc; --soft: #f4f5f7;
  --c0: #0072b2; --c1: #c04e00; --c2: #007a59; --c3: #a3508a; --c4: #8a6d00; --off: #9a9a9a;
  --good: #007a59; --bad: #b3261e; --fair: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --ink: #e8e8e8; --quiet: #a8a8a8; --line: #3a3d42;
  --soft: #1f2227; --c0: #56b4e9; --c1: #f0964b; --c2: #3ecf9f; --c3: #d99bc4; --c4: #e6c84b;
  --off: #777; --good: #3ecf9f; --bad: #ff8a80; --fair: #e6b450; } }
* { box-sizing: border-box; }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem;
  max-width: 62rem; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .3rem; }
p { margin: .4rem 0; max-width: 46rem; } .quiet, figcaption { color: var(--quiet); } nav { margin: .8rem 0; }
nav a { display: inline-block; margin-right: 1rem; }
a { color: var(--c0); } a:focus-visible, summary:focus-visible { outline: 2px solid var(--c0); outline-offset: 2px; }
.verdict { border-left: .4rem solid var(--off); background: var(--soft); padding: .5rem .8rem; }
.healthy { border-color: var(--good); } .partly, .undertrained { border-color: var(--fair); }
.collapsed { border-color: var(--bad); }
figure { margin: 0; } figcaption { font-size: .9rem; max-width: 46rem; margin-top: .8rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: .5rem 1.5rem; }
.scroll { overflow-x: auto; } .map svg { min-width: 48rem; }
table { border-collapse: collapse; font-size: .9rem; margin: .2rem 0 .5rem; }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; } td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } summary { cursor: pointer; margin: .4rem 0; }
svg { width: 100%; height: auto; display: block; font: 11px system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .quiet { fill: var(--quiet); } svg .head { font-size: 12px; font-weight: 600; }
svg .label { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
.grid { stroke: var(--line); } .axis { stroke: var(--quiet); } .whisker { stroke: var(--ink); }
.mark { stroke: var(--c1); stroke-dasharray: 4 3; } .halo { stroke: var(--paper); stroke-width: 3px; }
.c0 { fill: var(--c0); } .c1 { fill: var(--c1); } .c2 { fill: var(--c2); } .c3 { fill: var(--c3); }
.c4 { fill: var(--c4); } .named { stroke: var(--ink); }
.key span { margin-right: .9rem; white-space: nowrap; } svg.dot { display: inline; width: .8em; }
.off { fill: var(--off); } svg circle { fill-opacity: .7; } svg text.key { font-weight: 600; }
.line { fill: none; stroke-width: 1.5; } .line.c0 { stroke: var(--c0); }
.line.c1 { stroke: var(--c1); } .line.c2 { stroke: var(--c2); } .line.c3 { stroke: var(--c3); }
@media print { body { max-width: none; } .map svg { min-width: 0; } nav { display: none; }
  figure, svg, tr { break-inside: avoid; } }
"""


def document(name: str, body: str, key: str, numbers: Document, *, style: str = "") -> str:
    """Return a whole page: a title, a body of HTML, and the numbers in the script element with the id ``key``."""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}</title><style>{_CSS}{style}</style></head><body><main>"
        f"<h1>{escape(name)}</h1>{body}"
        f'</main><script type="application/json" id="{key}">{_harmless(numbers)}</script></body></html>\n'
    )


def table_of(caption: str, heads: Sequence[str], rows: Rows) -> str:
    """Return a table with a caption; cells are text."""
    said = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    whole = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<figure>{said}<div class="scroll">{whole}</div></figure>'


def charts_of(charts: Sequence[str]) -> str:
    """Return charts, as SVG, side by side where there is room."""
    return '<div class="charts">' + "".join(f"<figure>{chart}</figure>" for chart in charts) + "</div>"


def folded(title: str, body: str) -> str:
    """Return a part that opens when its title is chosen."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def _harmless(value: Document) -> str:
    """Return JSON without "<", which could end the script element around it."""
    return visible_json(json.dumps(value, ensure_ascii=False, allow_nan=False)).replace("<", "\\u003c")
