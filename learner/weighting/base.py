"""What a weighting gets and gives. Pure; the reliabilities of annotators are kept by `Reliabilities`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from torch import Tensor

FIRST_RELIABILITY: Final = 0.9
MEMORY: Final = 0.9
"""Share of its old value that a reliability keeps in a step."""


@dataclass(frozen=True, slots=True)
class Shares:
    """How much of each example's loss is that of its label, and how much that of the opposite label. (n,) each."""

    keep: Tensor
    flip: Tensor | None
    """None: nothing."""


class Weighting(Protocol):
    """`learns` says whether `keep` is the probability that the label is right, from which reliabilities are learned;
    `needs_dropout`, whether it looks at several passes with dropout.
    """

    @property
    def learns(self) -> bool: ...

    @property
    def needs_dropout(self) -> bool: ...

    def shares(self, agreement: Tensor, reliability: Tensor) -> Shares:
        """`agreement` (n,) is the policy's probability of each label, `reliability` (n,) its annotator's. Detached.

        Where it `needs_dropout`, `agreement` is (passes, n).
        """


@dataclass(slots=True)
class Reliabilities:
    """One probability of telling the truth for each annotator, followed by an exponential mean over the steps."""

    values: dict[str, float] = field(default_factory=dict)
    seen: dict[str, list[float]] = field(default_factory=dict)
    """What this step's examples say, by annotator."""

    def of(self, annotators: Iterable[str]) -> list[float]:
        return [self.values.get(name, FIRST_RELIABILITY) for name in annotators]

    def note(self, annotators: Sequence[str], keep: Sequence[float]) -> None:
        for name, value in zip(annotators, keep, strict=True):
            self.seen.setdefault(name, []).append(value)

    def gather(self, shares: Sequence[Mapping[str, Sequence[float]]]) -> None:
        """Several processes had a part of the step each: this is what each of them noted."""
        self.seen = {}
        for share in shares:
            for name, noted in share.items():
                self.note([name] * len(noted), noted)

    def settle(self) -> None:
        """η ← .9 η + .1 · mean of the step's probabilities, for those who said something in it."""
        for name, seen in self.seen.items():
            self.values[name] = MEMORY * self.of([name])[0] + (1 - MEMORY) * sum(seen) / len(seen)
        self.seen.clear()

    def forget_step(self) -> None:
        """The step was discarded."""
        self.seen.clear()

    def report(self, most: int = 100) -> Mapping[str, float]:
        """The least reliable ones."""
        return {name: round(self.values[name], 4) for name in sorted(self.values, key=self._order)[:most]}

    def _order(self, name: str) -> tuple[float, str]:
        return self.values[name], name
