"""Markdown tables and texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """One line for each row; nothing without rows."""
    lines = [_line(row) for row in rows]
    return [_line(columns), _line(["---"] * len(columns)), *lines, ""] if lines else []


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell(one) for one in cells)} |"


def cell(text: str) -> str:
    """In one line; a bar in it would end the cell."""
    return " ".join(text.split()).replace("|", r"\|")


def code(text: object) -> str:
    return f"`{text}`" if str(text) else ""


def inline(text: str) -> str:
    """A docstring's words; angle brackets are meant as they are."""
    return " ".join(text.split()).replace("<", "&lt;")
