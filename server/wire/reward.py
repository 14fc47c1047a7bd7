"""What `plumbline reward check` sends to the checking process and gets back: one JSON object a line."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from server.wire.base import Reply, Wire
from server.wire.chat import ChatMessage


class PreferencePair(Wire):
    """Of two answers to one prompt the better is known."""

    messages: list[ChatMessage] = Field(min_length=1)
    chosen: str
    rejected: str


class CheckedPair(Reply):
    """One pair is done. `problem`: why it could not be used."""

    pair: int
    """Which, from 0."""
    done: int
    """How many are done."""
    problem: str | None = None


class Interval(Reply):
    value: float
    low: float
    high: float


class ScorerReport(Reply):
    """One scorer on all pairs. Shares are of the pairs that it scored; None where there are none."""

    name: str
    kind: str
    skipped: str | None = None
    """Why it could not be asked."""
    pairs: int = 0
    """Pairs of which it scored both answers."""
    failures: int = 0
    reason: str | None = None
    """The commonest reason of its failures."""
    ties: int = 0
    accuracy: Interval | None = None
    """Share of pairs with the chosen answer ahead, a tie as half; 95% Wilson interval."""
    auc: float | None = None
    """Chance that a right decision has a larger margin than a wrong one: .5 says that its margins tell nothing."""
    ece: float | None = None
    """Expected calibration error of the margin's sigmoid, in ten bins."""
    ms_per_answer: float | None = None
    ms_per_answer_p95: float | None = None


class Agreement(Reply):
    """How often two scorers decide alike, where both decide."""

    first: str
    second: str
    pairs: int
    share: float | None = None


class RewardReport(Reply):
    alias: str
    pairs: int
    unusable: int
    scorers: list[ScorerReport]
    ensemble: ScorerReport | None = None
    """The total that the alias would choose by (`kind`: its combiner), of all scorers that could be asked."""
    agreement: list[Agreement]


class CheckLine(Reply):
    """A line of the checking process: how far it is, its report at the end, or why it cannot go on."""

    kind: Literal["progress", "report", "error"]
    progress: CheckedPair | None = None
    report: RewardReport | None = None
    error: str | None = None
