"""The page as Markdown. Plots are SVG in data: URLs, so that a saved file needs nothing else.

VS Code, Obsidian, JupyterLab, Typora and pandoc show them; GitHub and GitLab do not show data: images, there the
tables say the same.
"""

from __future__ import annotations

import base64
import re

from server.adapters.report.content import Page, Section, Table


def render(page: Page) -> str:
    lines = [f"# {_text(page.title)}", ""]
    lines += [f"- {_text(name)}: {_text(value)}" for name, value in page.facts]
    for section in page.sections:
        lines += _section(section)
    return "\n".join(lines) + "\n"


def _section(section: Section) -> list[str]:
    lines = ["", f"## {_text(section.title)}", ""]
    for words in section.words:
        lines += [_text(words), ""]
    if section.plot:
        plot = base64.b64encode(section.plot.encode()).decode()
        lines += [f"![{_text(section.plot_title)}](data:image/svg+xml;base64,{plot})", ""]
    for table in (section.table, section.folded):
        if table is not None:
            lines += [*_table(table), ""]
    return lines[:-1]


def _table(table: Table) -> list[str]:
    rows = [table.columns, ("---",) * len(table.columns), *table.rows]
    return [f"| {' | '.join(cell if cell == '---' else _text(cell) for cell in row)} |" for row in rows]


def _text(text: str) -> str:
    """One line, nothing in it read as Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#!&~])", r"\\\1", " ".join(text.split()))
