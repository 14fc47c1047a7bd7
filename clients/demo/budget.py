"""How many signals the users may still give, released in portions: pure, no clock, no I/O.

A portion lasts until enough signals have been given for a round of learning; then users chat on without rating until
that round has ended, so that later signals are about the newest adapter's answers. Every signal sent
counts against the total, ties and signals on held-out prompts too; only those that a learner can use count
towards a round.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Budget:
    """`total`: signals in all. `round_size`: useful signals that start a round."""

    total: int
    round_size: int
    taken: int = 0
    """Signals sent or on their way."""
    settled: int = 0
    """Signals whose fate is known."""
    useful: int = 0
    """Useful ones of the present portion."""
    is_open: bool = False

    @property
    def left(self) -> int:
        return self.total - self.taken

    @property
    def can_release(self) -> bool:
        """Whether another round could come of what is left."""
        return not self.is_open and self.left >= self.round_size

    def release(self) -> None:
        """Open the next portion."""
        self.useful = 0
        self.is_open = True

    def take(self) -> bool:
        """Reserve one signal; False while users may not rate."""
        if not self.is_open or self.left <= 0:
            return False
        self.taken += 1
        return True

    def settle(self, *, is_useful: bool) -> None:
        """A reserved signal was sent. The portion closes with the one that completes a round, or with the last."""
        self.settled += 1
        self.useful += is_useful
        is_used_up = self.left <= 0 and self.settled == self.taken
        if self.useful >= self.round_size or is_used_up:
            self.is_open = False
