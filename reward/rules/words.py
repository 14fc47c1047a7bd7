"""Words and phrases that must not occur, whole and whatever their case, accents as written, or form in Unicode.

A text is folded before it is compared: compatibility forms (full-width letters, ligatures) become plain, case goes, an
accent that is a character of its own joins its letter, and an invisible character inside a word is passed over.
Letters of other alphabets that look alike stay what they are. A word is a run of letters and digits, so the rule finds
nothing in scripts that write no spaces (Chinese, Japanese, Thai); there, use a pattern. Linear in the text's length.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from reward.types import Action, Span, Verdict

MAX_GAP: Final = 8
"""Characters that may stand between two words of a phrase."""
_CLUSTER: Final = re.compile(r"(?s:.)[\u0300-\u036f]{0,2}[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]?")
_CLUSTER_CHARS: Final = 4
_INVISIBLE: Final = dict.fromkeys([0xAD, *range(0x200B, 0x2010), *range(0x2060, 0x2065), 0xFEFF])
_WORD: Final = re.compile(r"\w+")


def fold(text: str) -> tuple[str, list[int]]:
    """The folded text, and where each of its characters begins in the original; at the end, the original's length."""
    if text.isascii():
        return text.lower(), list(range(len(text) + 1))
    folded: list[str] = []
    origins: list[int] = []
    for cluster in _CLUSTER.finditer(text):
        plain = unicodedata.normalize("NFKC", cluster[0].translate(_INVISIBLE)).casefold()
        folded.append(plain)
        origins += [cluster.start()] * len(plain)
    return "".join(folded), [*origins, len(text)]


def words_of(phrase: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(fold(phrase)[0]))


@dataclass(frozen=True, slots=True)
class WordsRule:
    """Applies where one of `phrases` occurs. A phrase without a letter or digit raises `ValueError`."""

    name: str
    phrases: tuple[str, ...]
    action: Action = Action.BLOCK
    _known: frozenset[tuple[str, ...]] = field(init=False, repr=False, compare=False)
    _lengths: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _widest: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = frozenset(words_of(phrase) for phrase in self.phrases)
        if not known or () in known:
            raise ValueError(f"rule {self.name}: every entry of a word list needs a letter or a digit")
        widest = max(sum(map(len, one)) + MAX_GAP * (len(one) - 1) for one in known)
        object.__setattr__(self, "_known", known)
        object.__setattr__(self, "_lengths", tuple(sorted({len(one) for one in known}, reverse=True)))
        object.__setattr__(self, "_widest", widest)

    @property
    def version(self) -> str:
        return hashlib.sha256("\n".join(sorted(map(" ".join, self._known))).encode()).hexdigest()[:8]

    @property
    def reach(self) -> int:
        return (self._widest + 1) * _CLUSTER_CHARS

    def settled(self, text: str) -> int:
        """Plain letters hide nothing between them: what has begun in them is no longer than it reads."""
        is_plain = text[-self.reach :].isascii()
        return max(0, len(text) - (self._widest + _CLUSTER_CHARS if is_plain else self.reach))

    def check(self, text: str) -> Verdict:
        spans = tuple(self._spans(text))
        if not spans:
            return Verdict(self.name, self.version, Action.ALLOW)
        return Verdict(self.name, self.version, self.action, "a listed word occurs", spans)

    def _spans(self, text: str) -> Iterator[Span]:
        folded, origins = fold(text)
        found = [(word[0], word.start(), word.end()) for word in _WORD.finditer(folded)]
        at = 0
        while at < len(found):
            count = next((one for one in self._lengths if self._is_listed(found[at : at + one], one)), 0)
            if count:
                yield origins[found[at][1]], origins[found[at + count - 1][2]]
            at += count or 1

    def _is_listed(self, words: list[tuple[str, int, int]], count: int) -> bool:
        return (
            len(words) == count
            and tuple(word for word, _, _ in words) in self._known
            and all(later[1] - earlier[2] <= MAX_GAP for earlier, later in _neighbours(words))
        )


def _neighbours(words: list[tuple[str, int, int]]) -> Iterable[tuple[tuple[str, int, int], tuple[str, int, int]]]:
    return pairwise(words)
