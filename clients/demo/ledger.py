"""What happened so far, as the demo's table and plot show it. Pure: no I/O, times are arguments.

Rolling figures are over the users' newest answers; what the measurement finds is kept beside them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from clients.demo.language import absent_objects, leaks, missed_objects
from clients.demo.scenes import Scene

WINDOW: Final = 100
"""Newest answers behind a rolling figure."""
MIN_WINDOW: Final = 20
"""With fewer a rolling figure says nothing."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer that a user read."""

    invents: bool
    named: int
    in_view: int


@dataclass(frozen=True, slots=True)
class Point:
    """The rolling figures at one moment."""

    signals: int
    hallucination: float
    coverage: float


@dataclass(frozen=True, slots=True)
class Swap:
    """An adapter took over an alias."""

    adapter: str
    signals: int


@dataclass(slots=True)
class Ledger:
    """Counts of one run."""

    requests: int = 0
    failed: int = 0
    failures: deque[str] = field(default_factory=lambda: deque(maxlen=5))
    """The newest reasons."""
    texts_served: int = 0
    leaks_served: int = 0
    signals: int = 0
    points: list[Point] = field(default_factory=list)
    swaps: list[Swap] = field(default_factory=list)
    first_served_at: dict[str, float] = field(default_factory=dict)
    """When each adapter's first answer arrived, UTC seconds."""
    _window: deque[Seen] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def reply(self, texts: Sequence[str], adapter: str, now: float) -> None:
        """One request was answered with these choices."""
        self.requests += 1
        self.texts_served += len(texts)
        self.leaks_served += sum(map(leaks, texts))
        self.first_served_at.setdefault(adapter, now)

    def failure(self, reason: str) -> None:
        """One request of any kind failed."""
        self.requests += 1
        self.failed += 1
        self.failures.append(reason)

    def description(self, view: Scene, text: str) -> None:
        """A user read this description."""
        missed = len(missed_objects(view, text))
        self._window.append(Seen(bool(absent_objects(view, text)), len(view.shapes) - missed, len(view.shapes)))
        if len(self._window) >= MIN_WINDOW:
            self.points.append(Point(self.signals, self.hallucination or 0.0, self.coverage or 0.0))

    def swap(self, adapter: str) -> None:
        """Another adapter is active now: the rolling figures start anew."""
        self.swaps.append(Swap(adapter, self.signals))
        self._window.clear()

    @property
    def hallucination(self) -> float | None:
        """Share of the newest answers that name something absent."""
        return sum(one.invents for one in self._window) / len(self._window) if self._window else None

    @property
    def coverage(self) -> float | None:
        """Share of the objects in view that the newest answers name."""
        return (
            sum(one.named for one in self._window) / sum(one.in_view for one in self._window) if self._window else None
        )

    @property
    def leak_rate_served(self) -> float:
        return self.leaks_served / self.texts_served if self.texts_served else 0.0
