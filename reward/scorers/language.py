"""Whether an answer is in the wanted language, by its script and its commonest words: 0 to 1.

The share of letters in the language's scripts, times, among languages of the Latin script, how its commonest words
stand to those of the best other one. What it cannot tell apart: languages that share a script and are not in `WORDS`
(Danish and Norwegian, Russian and Ukrainian), and answers of a few words. A text without letters is not scored down.

`prompt` as the language asks for the script of the user's last message. Pure, linear in the text's length.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reward.types import Candidate, Prompt

PROMPT = "prompt"

_CJK, _LATIN = "CJK", "LATIN"
SCRIPTS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(
        ("en", "de", "fr", "es", "it", "pt", "nl", "sv", "da", "no", "fi", "pl", "cs", "tr", "vi", "id", "ro", "hu"),
        frozenset({_LATIN}),
    ),
    **dict.fromkeys(("ru", "uk", "bg", "sr", "kk"), frozenset({"CYRILLIC"})),
    **dict.fromkeys(("ar", "fa", "ur"), frozenset({"ARABIC"})),
    **dict.fromkeys(("hi", "mr", "ne"), frozenset({"DEVANAGARI"})),
    "zh": frozenset({_CJK}),
    "ja": frozenset({"HIRAGANA", "KATAKANA", _CJK}),
    "ko": frozenset({"HANGUL", _CJK}),
    "he": frozenset({"HEBREW"}),
    "el": frozenset({"GREEK"}),
    "th": frozenset({"THAI"}),
    "bn": frozenset({"BENGALI"}),
    "ta": frozenset({"TAMIL"}),
    "te": frozenset({"TELUGU"}),
    "ka": frozenset({"GEORGIAN"}),
    "hy": frozenset({"ARMENIAN"}),
}
"""ISO 639-1 code → the scripts it is written in, as Unicode names them."""

_COMMON = """
en the of and to is in that it with are on this be for was there has not you as
de der die das und ist nicht ein eine mit auf den von zu im sich dem es auch sind wie
fr le la les des et est un une dans que pour qui sur pas avec il au du ce sont
es el los las y es en un una que por con para no del se su al está como hay
it il lo gli e è un una di che per con non del si sono della nel al ci più
pt o os as e é um uma de que para com não do da em no na se são mais
nl de het een en is van in niet met op te dat zijn er voor aan ook naar bij die
"""
WORDS: Mapping[str, frozenset[str]] = {
    code: frozenset(words) for code, *words in (line.split() for line in _COMMON.strip().splitlines())
}
"""The commonest words of languages that share a script and are often asked for."""

_WORD = re.compile(r"[^\W\d_]+")
MAX_LETTERS = 4_000
"""Letters looked at: enough to tell, and a bound."""


@dataclass(frozen=True, slots=True)
class LanguageScorer:
    """Raises `ValueError` for a language that is not in `SCRIPTS`."""

    language: str
    name: str = "language"

    def __post_init__(self) -> None:
        if self.language != PROMPT and self.language not in SCRIPTS:
            raise ValueError(f"language {self.language!r} is not one of: prompt {' '.join(sorted(SCRIPTS))}")

    @property
    def version(self) -> str:
        return f"{self.language} 1"

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[float | None]:
        if self.language != PROMPT:
            return [_share(one.text, SCRIPTS[self.language]) * _fits(one.text, self.language) for one in candidates]
        asked = [message.text for message in prompt.messages if message.role == "user"]
        wanted = _scripts(asked[-1]) if asked else Counter[str]()
        if not wanted:
            return [1.0] * len(candidates)
        return [_share(one.text, frozenset({wanted.most_common(1)[0][0]})) for one in candidates]


def _scripts(text: str) -> Counter[str]:
    """How many letters of each script, by the first word of their Unicode names."""
    letters = [character for character in text[: 4 * MAX_LETTERS] if character.isalpha()][:MAX_LETTERS]
    found: Counter[str] = Counter()
    for letter, count in Counter(letters).items():
        found[unicodedata.name(letter, "UNKNOWN").split(" ", 1)[0].split("-", 1)[0]] += count
    return found


def _share(text: str, scripts: frozenset[str]) -> float:
    found = _scripts(text)
    total = found.total()
    return sum(count for script, count in found.items() if script in scripts) / total if total else 1.0


def _fits(text: str, language: str) -> float:
    """1 where no other language's commonest words are commoner."""
    if language not in WORDS:
        return 1.0
    words = Counter(_WORD.findall(text[: 4 * MAX_LETTERS].casefold()))
    hits = {name: sum(words[word] for word in listed) for name, listed in WORDS.items()}
    best = max(hits.values())
    return hits[language] / best if best >= 2 else 1.0
