"""What `plumbline reward criteria` gets back from the mining process: one JSON object a line."""

from __future__ import annotations

from typing import Literal

from server.wire.base import Reply
from server.wire.reward import Interval


class MinedCriterion(Reply):
    """One criterion on the pairs that were held apart."""

    text: str
    is_kept: bool
    pairs: int
    """Of which the judge said something."""
    decided: int
    """Of which it preferred one answer by this criterion."""
    accuracy: Interval | None = None
    """Share of the decided pairs on which it preferred what people chose; 95% Wilson interval. None: none decided."""


class MiningReport(Reply):
    criteria: list[MinedCriterion]
    """The best one first."""
    together: MinedCriterion | None = None
    """The kept ones as one judge's criteria; None: none is kept."""
    read: int
    """Pairs that the critic saw."""
    held: int
    """Pairs that were held apart."""
    unusable: int = 0


class MiningProgress(Reply):
    doing: str
    done: int
    total: int


class MiningLine(Reply):
    """A line of the process: how far it is, its report at the end, or why it cannot go on."""

    kind: Literal["progress", "report", "error"]
    progress: MiningProgress | None = None
    report: MiningReport | None = None
    error: str | None = None
