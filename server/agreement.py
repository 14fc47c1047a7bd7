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
    for better, worse in _pairs(kind, payload):
        preferred, other = group.candidate(better), group.candidate(worse)
        if preferred is None or other is None:
            continue
        for scorer, value in _values(preferred).items():
            against = _values(other).get(scorer)
            if value is not None and against is not None:
                yield scorer, "tied" if value == against else "agrees" if value > against else "disagrees"


def _pairs(kind: SignalKind, payload: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if kind is SignalKind.CHOICE:
        yield from ((payload["chosen"], one) for one in payload["rejected"])
    elif kind is SignalKind.RANKING:
        yield from itertools.combinations(payload["ranking"], 2)


def _values(candidate: CandidateRecord) -> dict[str, float | None]:
    return {name: value for name, (_, value) in candidate.scores.items()} | {ENSEMBLE: candidate.total}
