"""Whether scorers put answers in the order in which people put them. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from server.store.records import CandidateRecord, GroupRecord, SignalKind

Agreement = Literal["agrees", "disagrees", "tied"]

ENSEMBLE: Final = "ensemble"
"""In place of a scorer's name: what the candidates were chosen by."""


def compared(group: GroupRecord, kind: SignalKind, payload: Mapping[str, Any]) -> Iterator[tuple[str, Agreement]]:
    """Of each pair that a choice or ranking puts in order: (scorer, how it sees the pair).

    Scorers that have no value for one of the two say nothing; nor do other kinds of signals.
    """
    for better, worse in preferences(kind, payload):
        preferred, other = group.candidate(better), group.candidate(worse)
        if preferred is not None and other is not None:
            yield from views(_values(preferred), _values(other))


def preferences(kind: SignalKind, payload: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(better, worse) candidate ids of a choice or ranking."""
    if kind is SignalKind.CHOICE:
        yield from ((payload["chosen"], one) for one in payload["rejected"])
    elif kind is SignalKind.RANKING:
        yield from itertools.combinations(payload["ranking"], 2)


def views(preferred: Mapping[str, float | None], other: Mapping[str, float | None]) -> Iterator[tuple[str, Agreement]]:
    """How each scorer sees a pair, given what it found of the one that people prefer and of the other."""
    for scorer, value in preferred.items():
        against = other.get(scorer)
        if value is not None and against is not None:
            yield scorer, "tied" if value == against else "agrees" if value > against else "disagrees"


def _values(candidate: CandidateRecord) -> dict[str, float | None]:
    return {name: value for name, (_, value) in candidate.scores.items()} | {ENSEMBLE: candidate.total}
