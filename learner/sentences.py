"""Answers cut into sentences, or clauses, between their tokens; and what a pair's two answers say otherwise. Pure.

Mask-DPO, Gu et al. 2025, https://arxiv.org/abs/2503.02846: Δ_w over the right sentences of the chosen answer only, Δ_l
over the wrong ones of the rejected answer only. Which are wrong is read off the pair: a sentence that both say is left
alone, one that only the chosen answer says is right, one that only the rejected answer says is wrong. Where somebody
corrected an answer of the group, the correction knows better: only what it says is right, and nothing that it says is
wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from learner.examples import Answer, Example
from learner.spelling import Spelling


@dataclass(frozen=True, slots=True)
class Sentence:
    """Tokens `first` to `end` of an answer; from `tail` on they are what ends the sentence."""

    first: int
    tail: int
    end: int
    said: str
    """In lower case, without what surrounds it; empty for a mere end-of-sequence token."""
    ending: str
    """The separators, without spaces."""


class Cutter:
    def __init__(self, spelling: Spelling, separators: Sequence[str]) -> None:
        """A separator ends a sentence where a space or nothing follows it; a line break anywhere."""
        self._spelling = spelling
        one = b"|".join(map(_pattern, sorted(separators, key=len, reverse=True)))
        self._ends = re.compile(b"(?:" + one + b")+")

    def cut(self, token_ids: Sequence[int]) -> list[Sentence]:
        """Every token is in one sentence: that of its first byte."""
        pieces = self._spelling.of(token_ids)
        text = b"".join(pieces)
        starts: list[int] = []
        place = 0
        for piece in pieces:
            starts.append(place)
            place += len(piece)
        bounds = [(match.start(), match.end()) for match in self._ends.finditer(text)]
        bounds.append((len(text) + 1, len(text) + 1))
        sentences: list[Sentence] = []
        first = begin = 0
        for core, behind in bounds:
            tail = end = first
            while tail < len(starts) and starts[tail] < core:
                tail += 1
            end = tail
            while end < len(starts) and starts[end] < behind:
                end += 1
            if end > first:
                sentences.append(Sentence(first, tail, end, plain(text[begin:core]), plain(text[core:behind])))
            first, begin = end, behind
        return sentences

    def text(self, token_ids: Sequence[int]) -> str:
        """All of it, in lower case."""
        return plain(self.bytes(token_ids))

    def bytes(self, token_ids: Sequence[int]) -> bytes:
        return b"".join(self._spelling.of(token_ids))

    def masked(self, example: Example) -> Example:
        """With each pair told which tokens it is about."""
        if not example.pairs:
            return example
        sentences = [self.cut(answer.token_ids) for answer in example.answers]
        corrections = {pair.chosen for pair in example.pairs if pair.source == "correction"}
        truth = {one.said for index in corrections for one in sentences[index]} if corrections else None
        pairs = []
        for pair in example.pairs:
            chosen, rejected = sentences[pair.chosen], sentences[pair.rejected]
            right = [one for one in _beyond(chosen, rejected) if truth is None or one.said in truth]
            wrong = [one for one in _beyond(rejected, chosen) if truth is None or one.said not in truth]
            pairs.append(
                replace(
                    pair,
                    chosen_part=_part(example.answers[pair.chosen], right),
                    rejected_part=_part(example.answers[pair.rejected], wrong),
                )
            )
        return replace(example, pairs=tuple(pairs))


def _pattern(separator: str) -> bytes:
    written = re.escape(separator.encode())
    return written if separator[-1].isspace() or not separator.isascii() else written + rb"(?=\s|$)"


def plain(content: bytes) -> str:
    """As it is compared: in lower case, without space around it."""
    return str(content, "utf-8", "replace").casefold().strip()


def _beyond(sentences: Sequence[Sentence], other: Sequence[Sentence]) -> list[Sentence]:
    """What the other answer does not say, or not as often."""
    left = Counter(one.said for one in other)
    found = []
    for one in sentences:
        if left[one.said] > 0:
            left[one.said] -= 1
        elif one.said:
            found.append(one)
    return found


def _part(answer: Answer, sentences: Sequence[Sentence]) -> tuple[bool, ...]:
    taught = {place for one in sentences for place in range(one.first, one.end)}
    return tuple(place in taught for place in range(len(answer.token_ids)))
