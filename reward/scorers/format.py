"""Whether an answer has the asked form: 1 where it has, 0 where not. Pure, linear in the text's length.

plain         no Markdown marks
markdown      at least one heading, list item, emphasis, table row or code block, and every fence closed
json          the whole text is one JSON value (objects and lists count, bare numbers and words do not)
list          at least two items, and nothing between them but their own indented lines
one_sentence  one sentence, ended by . ! or ?, on one line
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from reward.types import Candidate, Prompt

Form = Literal["plain", "markdown", "json", "list", "one_sentence"]

_ITEM = re.compile(r"[ \t]{0,8}(?:[-*+•]|\d{1,3}[.)])[ \t]+\S")
_HEADING = re.compile(r"#{1,6}[ \t]+\S")
_ROW = re.compile(r"\|.*\|[ \t]*$")
_EMPHASIS = re.compile(r"\*\*[^*\n]{1,200}\*\*|(?<!`)`[^`\n]{1,200}`(?!`)")
_FENCE = re.compile(r"[ \t]{0,3}(?:```|~~~)")
_SENTENCE_ENDS = re.compile(r"[.!?]+(?:[\"')\]]*)(?=\s|$)")


@dataclass(frozen=True, slots=True)
class FormatScorer:
    form: Form
    name: str = "format"

    @property
    def version(self) -> str:
        return f"{self.form} 1"

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[float | None]:
        return [float(_FORMS[self.form](one.text)) for one in candidates]


def _is_markdown(text: str) -> bool:
    lines = text.splitlines()
    fences = sum(_FENCE.match(line) is not None for line in lines)
    marks = any(pattern.match(line) for line in lines for pattern in (_ITEM, _HEADING, _ROW))
    return fences % 2 == 0 and (fences > 0 or marks or _EMPHASIS.search(text) is not None)


def _is_plain(text: str) -> bool:
    return bool(text.strip()) and not _is_markdown(text) and "```" not in text


def _is_json(text: str) -> bool:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict | list)


def _is_list(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    items = sum(_ITEM.match(line) is not None for line in lines)
    return items >= 2 and all(_ITEM.match(line) or line[:1] in {" ", "\t"} for line in lines)


def _is_one_sentence(text: str) -> bool:
    body = text.strip()
    ends = [found.end() for found in _SENTENCE_ENDS.finditer(body)]
    return "\n" not in body and ends == [len(body)]


_FORMS: Mapping[Form, Callable[[str], bool]] = {
    "plain": _is_plain,
    "markdown": _is_markdown,
    "json": _is_json,
    "list": _is_list,
    "one_sentence": _is_one_sentence,
}
