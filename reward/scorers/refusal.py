"""Whether an answer declines: minus the weights of the phrases found, at most −1; 0 where there is none.

A phrase within the first `OPENING` characters counts in full, later ones half: "I can't make out the label, but the
colour is red" is an answer. English phrases only; an operator can give a list of their own. Linear in the text's
length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reward.types import Candidate, Prompt

OPENING = 160

PHRASES: Mapping[str, float] = {
    "i can't help with": 1.0,
    "i cannot help with": 1.0,
    "i can't assist with": 1.0,
    "i cannot assist with": 1.0,
    "i'm unable to assist": 1.0,
    "i am unable to assist": 1.0,
    "i won't be able to help": 1.0,
    "i can't answer that": 1.0,
    "i cannot answer that": 1.0,
    "i must decline": 1.0,
    "i'm not able to provide": 0.8,
    "i am not able to provide": 0.8,
    "i can't provide": 0.8,
    "i cannot provide": 0.8,
    "i'm unable to": 0.6,
    "i am unable to": 0.6,
    "against my guidelines": 0.8,
    "as an ai": 0.5,
    "as a language model": 0.5,
    "i'm sorry, but": 0.4,
    "i am sorry, but": 0.4,
    "i apologize, but": 0.4,
    "i can't see": 0.4,
    "i cannot see": 0.4,
    "i don't have the ability": 0.6,
    "i'm not comfortable": 0.6,
}
"""Phrase, in lower case with straight apostrophes → weight: how surely it declines."""


def _documented() -> Mapping[str, float]:
    return PHRASES


@dataclass(frozen=True, slots=True)
class RefusalScorer:
    phrases: Mapping[str, float] = field(default_factory=_documented)
    name: str = "refusal"

    @property
    def version(self) -> str:
        if self.phrases is PHRASES:
            return "1"
        return " ".join(f"{phrase}={weight:g}" for phrase, weight in sorted(self.phrases.items()))[:64]

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[float | None]:
        return [-self._declines(one.text) for one in candidates]

    def _declines(self, text: str) -> float:
        said = " ".join(text.replace("\u2019", "'").casefold().split())
        total = 0.0
        for phrase, weight in self.phrases.items():
            at = said.find(phrase)
            if at >= 0:
                total += weight if at < OPENING else weight / 2
        return min(1.0, total)
