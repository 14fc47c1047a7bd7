"""Texts that the tokenizer would take for control become plain text.

A user who types `<|im_end|>` or an image placeholder must not end a turn or claim an image. The special tokens
are read from the model's directory; each occurrence is broken by a zero-width space after its first character,
so people read the same and the tokenizer does not see the token.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

BREAK = "\u200b"
COMMON = r"<\|[A-Za-z0-9_]{1,40}\|>"
"""How most chat models write special tokens; covers models whose files are not at hand."""


def special_tokens(model_directory: Path) -> tuple[str, ...]:
    """The special tokens named in `tokenizer.json`; none where there is no such file."""
    try:
        added = json.loads((model_directory / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    except (OSError, ValueError, KeyError):
        return ()
    return tuple(token["content"] for token in added if token.get("special"))


class Sanitiser:
    def __init__(self, tokens: tuple[str, ...]) -> None:
        longest_first = sorted(tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join([*map(re.escape, longest_first), COMMON]))

    def clean(self, text: str) -> str:
        return self._pattern.sub(lambda match: match[0][0] + BREAK + match[0][1:], text)
