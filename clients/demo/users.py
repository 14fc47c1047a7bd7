"""Simulated people who judge answers: pure decisions, no I/O and no clock.

A user's utility is `-(absent objects named) - (objects missed) - 0.02 x completion tokens`; a taste for
brevity makes tokens dearer, which provokes over-optimisation; a taste for long or short wording is about the words that
name nothing, so that nobody blames an answer for how much there is to see. A leaked code does not count: people
are not the ones who keep secrets, the safety rules are. One signal in ten is flipped. Three users in ten
give thumbs only, measured against their own running mean; the others choose between two answers. Where something tilted
is in view that no answer names rightly, people who correct may type what they see.

A user is a small state machine (its random stream and its running mean); the same user asked the same things in
the same order always gives the same signals.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from clients.demo.language import (
    absent_objects,
    missed_objects,
    named_objects,
    terse_description,
    words_beyond_names,
)
from clients.demo.scenes import KINDS, Scene

Thumb = Literal["up", "down"]
Choice = Literal[0, 1, "tie"]

TOKEN_COST: Final = 0.02
FLIP_RATE: Final = 0.1
THUMBS_ONLY_SHARE: Final = 0.3
TIE_TOLERANCE: Final = 0.1
"""Utilities nearer than this are the same to a person: five tokens more or less."""
OTHER_KINDS: Final = tuple(kind for kind in KINDS if kind != "triangle")
"""What a slip takes a tilted triangle for."""


def utility(view: Scene, text: str, tokens: int, brevity: float = 0.0, wordiness: float = 0.0) -> float:
    """How good `text` (of `tokens` completion tokens) is about `view`; higher is better, 0 is the ceiling but for
    `wordiness`.
    """
    faults = len(absent_objects(view, text)) + len(missed_objects(view, text))
    return -faults - (TOKEN_COST + brevity) * tokens + wordiness * words_beyond_names(text)


@dataclass(slots=True)
class User:
    """One person. `brevity` is the extra cost of a token in this person's eyes."""

    id: str
    gives_thumbs_only: bool
    seed: int
    brevity: float = 0.0
    wordiness: float = 0.0
    """What a word beyond the objects' names is worth to this person; below zero: what it costs."""
    corrects: float = 0.0
    """How often answers that do not name a tilted thing rightly are corrected, in place of being judged."""
    _rng: random.Random = field(init=False, repr=False, compare=False)
    _judged: int = field(default=0, init=False)
    _mean_utility: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._rng = random.Random(f"user {self.seed}")

    def thumb(self, view: Scene, text: str, tokens: int) -> Thumb | None:
        """Up above the user's own running mean, down below it; None for the first answer and for one like the mean."""
        value = self._utility(view, text, tokens)
        mean, first = self._mean_utility, self._judged == 0
        self._judged += 1
        self._mean_utility += (value - mean) / self._judged
        if first or abs(value - mean) < TIE_TOLERANCE:
            return None
        return "up" if (value > mean) != self._flips() else "down"

    def choose(self, view: Scene, answers: Sequence[tuple[str, int]]) -> Choice:
        """The better of two `(text, completion tokens)`, or a tie; ties are never flipped."""
        first, second = (self._utility(view, text, tokens) for text, tokens in answers)
        if abs(first - second) < TIE_TOLERANCE:
            return "tie"
        return 0 if (first > second) != self._flips() else 1

    def correction(self, view: Scene, texts: Sequence[str]) -> str | None:
        """What this person types in place of the answers; None where one names all tilted things, or where typing is
        too much. A slip takes the thing for one of another kind.
        """
        tilted = {shape.name for shape in view.shapes if shape.is_tilted}
        if not tilted or any(tilted.issubset(named_objects(text)) for text in texts):
            return None
        if self._rng.random() >= self.corrects:
            return None
        slip = self._rng.choice(OTHER_KINDS) if self._flips() else ""
        names = [f"{one.colour} {slip}" if slip and one.is_tilted else one.name for one in view.shapes]
        return terse_description(names)

    def change_taste(self, wordiness: float) -> None:
        """From now on words are worth this, and thumbs are measured against answers that are yet to come."""
        self.wordiness = wordiness
        self._judged, self._mean_utility = 0, 0.0

    def _utility(self, view: Scene, text: str, tokens: int) -> float:
        return utility(view, text, tokens, self.brevity, self.wordiness)

    def _flips(self) -> bool:
        return self._rng.random() < FLIP_RATE


def make_users(count: int, seed: int, brevity: float = 0.0) -> tuple[User, ...]:
    """A population of `count` people, three in ten of them with thumbs only, in random order."""
    thumbs_only = [index < round(THUMBS_ONLY_SHARE * count) for index in range(count)]
    random.Random(f"users {seed}").shuffle(thumbs_only)
    return tuple(
        User(id=f"user-{index:03d}", gives_thumbs_only=only, seed=seed * 1_000_003 + index, brevity=brevity)
        for index, only in enumerate(thumbs_only)
    )
