"""A text must be written in some scripts. It tells alphabets apart, no languages: French and English are both latin."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from reward.types import Action, Verdict

SCRIPTS: Final = (
    "latin", "greek", "cyrillic", "armenian", "hebrew", "arabic", "devanagari", "bengali", "gurmukhi", "gujarati",
    "tamil", "telugu", "kannada", "malayalam", "sinhala", "thai", "lao", "tibetan", "myanmar", "georgian", "ethiopic",
    "khmer", "mongolian", "hiragana", "katakana", "hangul", "bopomofo", "cjk",
)  # fmt: skip
"""As the Unicode names of their letters begin; `cjk` are the ideographs."""


@lru_cache(maxsize=65536)
def script_of(letter: str) -> str:
    """The script of one letter; empty for what is no letter, or of no script that is told apart."""
    if not letter.isalpha():
        return ""
    plain = unicodedata.normalize("NFKC", letter)[0]
    script = unicodedata.name(plain, "").partition(" ")[0].lower()
    return script if script in SCRIPTS else "other"


@dataclass(frozen=True, slots=True)
class LanguageRule:
    """Applies to a text with more than `max_letters` letters of other scripts than `scripts`.

    A count and no share: as a text grows it only rises, so what streams is judged as the whole is.
    """

    name: str
    scripts: tuple[str, ...]
    max_letters: int = 20
    action: Action = Action.BLOCK

    @property
    def version(self) -> str:
        return f"{'-'.join(sorted(self.scripts))}-{self.max_letters}"

    @property
    def reach(self) -> int:
        """It forbids no words: what went before it applied was within the rule."""
        return 0

    def check(self, text: str) -> Verdict:
        allowed = {"", *self.scripts}
        foreign = 0 if text.isascii() and "latin" in allowed else sum(script_of(one) not in allowed for one in text)
        if foreign <= self.max_letters:
            return Verdict(self.name, self.version, Action.ALLOW)
        return Verdict(self.name, self.version, self.action, f"more than {self.max_letters} letters of another script")
