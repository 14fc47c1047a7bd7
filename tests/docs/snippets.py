"""The fenced blocks of the README and of the pages, in the order in which a reader meets them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python": "python", "bash": "bash", "sh": "bash", "toml": "toml"}

_FENCE = re.compile(
    r"(?:^<!-- not run: (?P<why>[^\n]+) -->\n)?^(?P<indent> *)```(?P<language>\w*)[^\n]*\n"
    r"(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Snippet:
    page: str
    line: int
    language: str
    text: str
    why_not: str | None
    """Why it cannot be run."""


def snippets(page: Path) -> Iterator[Snippet]:
    """Blocks in a language that can be run; blocks without one, or in `text`, are pictures."""
    whole = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(whole):
        if found["language"] in LANGUAGES:
            line = whole.count("\n", 0, found.start("text")) + 1
            name = str(page.relative_to(ROOT))
            yield Snippet(name, line, LANGUAGES[found["language"]], found["text"], found["why"])
