"""Pairs without any human signal: an own answer, preferred to itself with one hallucination put in.

APASI, Lu et al. 2025, https://arxiv.org/abs/2509.11287: a sentence of the model's own answer, never the first and
rather a late one, gives way to one on an object that often occurs together with what is left, and that the answer does
not name. It lets the model write that sentence without the image; here another group's answer lends it, word for word
as it was sampled, so that it is in the model's own style and its tokens are right. Its object-level negatives (as those
of OSPO, https://arxiv.org/abs/2506.02015) come from separators that cut finer than sentences: with "," and " and" one
name in a list is replaced.

What no candidate of the group says, by its last two words, is taken to be absent from the picture: no more is known.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from learner.examples import NOT_SAMPLED, Negative
from learner.sentences import Cutter, Sentence, plain
from server.wire.training import TrainingCandidate, TrainingGroup

SOURCE: Final = "self_inject"
ANSWERS: Final = 8
"""Of a group that phrases are taken from, at most."""
CLAUSES: Final = 32
"""Of an answer."""
NEAREST: Final = 10
"""Phrases that most often occur together with what is left: one of them is drawn."""
SENTENCE_ENDS: Final = re.compile(r"[.!?;。！？]")


@dataclass(frozen=True, slots=True)
class Phrase:
    """What an answer says in a sentence behind its first one."""

    tokens: tuple[int, ...]
    kind: tuple[bool, bool]
    """Whether it begins a sentence, and whether with a space: only its like takes its place."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A sentence that may be replaced."""

    number: int
    sentence: Sentence
    kind: tuple[bool, bool]


class Phrases:
    """Of the round's groups, kept in step with them by `put` and `drop`."""

    def __init__(self, cutter: Cutter, share: float) -> None:
        """`share` of the groups get a negative."""
        self._cutter = cutter
        self._share = share
        self._said: dict[str, list[list[str]]] = {}
        self._together: dict[str, Counter[str]] = {}
        self._lent: dict[str, dict[str, Phrase]] = {}
        """By what is said, and by group."""

    def clear(self) -> None:
        self._said.clear()
        self._together.clear()
        self._lent.clear()

    def put(self, group: TrainingGroup) -> None:
        self.drop(group.id)
        said: list[list[str]] = []
        for candidate in _own(group)[:ANSWERS]:
            sentences = self._cutter.cut(candidate.token_ids)[:CLAUSES]
            said.append(sorted({one.said for one in sentences if one.said}))
            for place in self._places(candidate, sentences):
                one = place.sentence
                phrase = Phrase(tuple(candidate.token_ids[one.first : one.tail]), place.kind)
                self._lent.setdefault(one.said, {}).setdefault(group.id, phrase)
        self._said[group.id] = said
        self._count(said, 1)

    def drop(self, group: str) -> None:
        said = self._said.pop(group, [])
        self._count(said, -1)
        for one in {one for answer in said for one in answer}:
            lenders = self._lent.get(one, {})
            lenders.pop(group, None)
            if not lenders:
                self._lent.pop(one, None)

    def negative(self, group: TrainingGroup) -> Negative | None:
        """The same for the same groups. None where there is nothing to replace, or to replace it with."""
        own = max(_own(group), key=lambda candidate: candidate.total or 0.0, default=None)
        if own is None or _lot(group.id) >= self._share:
            return None
        sentences = self._cutter.cut(own.token_ids)[:CLAUSES]
        rng = random.Random(f"{SOURCE} {group.id} {own.id}")  # noqa: S311 - a choice that can be repeated
        places = self._places(own, sentences)
        texts = [_words(self._cutter.text(candidate.token_ids)) for candidate in group.candidates]
        # Later places are likelier, by the root of their number, as APASI's.
        for place in sorted(places, key=lambda place: rng.random() ** (1 / math.sqrt(place.number)), reverse=True):
            kept = [one.said for one in sentences if one is not place.sentence and one.said]
            found = self._companions(kept, place, group.id, texts)
            if found:
                said = rng.choices([one for one, _ in found], [count for _, count in found])[0]
                lender, phrase = self._lender(said, place, group.id) or ("", None)
                assert phrase is not None
                tokens = (*own.token_ids[: place.sentence.first], *phrase.tokens, *own.token_ids[place.sentence.tail :])
                return Negative(own.id, tokens, SOURCE, lender)
        return None

    def _companions(
        self, kept: Iterable[str], place: _Place, group: str, texts: Sequence[str]
    ) -> list[tuple[str, int]]:
        """What occurs together with these, is not said in the group, and can be lent; the oftenest first."""
        counts: Counter[str] = Counter()
        for one in kept:
            counts.update(self._together.get(one, {}))
        found: list[tuple[str, int]] = []
        for said, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            tail = _words(" ".join(_words(said).split()[-2:]))
            if tail.strip() and not any(tail in text for text in texts) and self._lender(said, place, group):
                found.append((said, count))
                if len(found) == NEAREST:
                    break
        return found

    def _lender(self, said: str, place: _Place, group: str) -> tuple[str, Phrase] | None:
        lenders = self._lent.get(said, {})
        fitting = (name for name, phrase in lenders.items() if name != group and phrase.kind == place.kind)
        name = min(fitting, default=None)
        return None if name is None else (name, lenders[name])

    def _places(self, candidate: TrainingCandidate, sentences: Sequence[Sentence]) -> list[_Place]:
        """All but the first, where they end between two tokens."""
        found = []
        for number, one in enumerate(sentences):
            core = self._cutter.bytes(candidate.token_ids[one.first : one.tail])
            if number and one.said and plain(core) == one.said:
                begins = bool(SENTENCE_ENDS.search(sentences[number - 1].ending))
                found.append(_Place(number, one, (begins, core[:1].isspace())))
        return found

    def _count(self, said: Iterable[Sequence[str]], by: int) -> None:
        for answer in said:
            for one in answer:
                counts = self._together.setdefault(one, Counter())
                for other in answer:
                    if other != one:
                        counts[other] += by
                        if counts[other] <= 0:
                            del counts[other]
                if not counts:
                    del self._together[one]


def _own(group: TrainingGroup) -> list[TrainingCandidate]:
    """Whole answers that the model gave, and that it may be taught."""
    return [
        one
        for one in group.candidates
        if one.adapter not in NOT_SAMPLED and one.may_be_positive and not one.blocked and one.finish_reason == "stop"
    ]


def _words(text: str) -> str:
    """Its words, each between single spaces."""
    return " ".join(["", *re.findall(r"\w+", text), ""])


def _lot(group: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{SOURCE} {group}".encode()).digest()[:6]) / 2**48
