"""The page as one HTML file: no script, nothing from outside, light and dark, wide and narrow. All text is escaped."""

from __future__ import annotations

from html import escape
from typing import Final

from server.adapters.report.content import Page, Section, Table

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Content-Security-Policy of the page, in it and to be sent with it."""

STYLE: Final = """
:root{color-scheme:light dark;--text:#222;--soft:#555;--page:#fff;--line:#ddd;--badge:#eef2f5}
@media(prefers-color-scheme:dark){:root{--text:#e6e6e6;--soft:#aaa;--page:#16181b;--line:#3a3d42;--badge:#2a2e34}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--text);background:var(--page);max-width:60rem;margin:0 auto;
padding:1.5rem 1rem 4rem}
h1{font-size:1.4rem;overflow-wrap:anywhere;margin:0 0 1rem}h2{font-size:1.1rem;margin:2.2rem 0 .6rem}
.state{display:inline-block;background:var(--badge);border-radius:1rem;padding:.1rem .7rem;font-size:1rem;
font-weight:400}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin:0}dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
svg{display:block;width:100%;max-width:30rem;height:auto;margin:.8rem 0}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;width:100%}
th,td{text-align:left;vertical-align:top;padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:500}td{white-space:nowrap}
td:last-child{white-space:normal;overflow-wrap:anywhere;min-width:9rem}
details{margin-top:.8rem}summary{color:var(--soft);cursor:pointer}
""".strip()


def render(page: Page) -> str:
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in page.facts)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(page.title)} · Plumbline</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(page.title)} <span class="state">{escape(page.state)}</span></h1>
<dl>{facts}</dl>
{"".join(_section(section) for section in page.sections)}</body>
</html>
"""


def _section(section: Section) -> str:
    words = "".join(f"<p>{escape(one)}</p>" for one in section.words)
    table = _table(section.table) if section.table is not None else ""
    folded = ""
    if section.folded is not None:
        folded = f"<details><summary>More figures</summary>{_table(section.folded)}</details>"
    return f"<section><h2>{escape(section.title)}</h2>{words}{section.plot}{table}{folded}</section>\n"


def _table(table: Table) -> str:
    head = ""
    if any(table.columns):
        head = f"<thead><tr>{''.join(f'<th>{escape(one)}</th>' for one in table.columns)}</tr></thead>"
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    return f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>'
