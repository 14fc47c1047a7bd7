"""Sums up what happened lately: curves over time, and how far scorers and rules agree with people. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from reward.evaluation import wilson
from reward.types import Action
from server.agreement import ENSEMBLE, Agreement, preferences, views
from server.store.activity import AnswerRow, JudgedRow, OpinionRow
from server.store.records import GroupState, SignalKind
from server.wire.activity import ActivityBucket, AdapterActivity, RuleAgreement, ScorerAgreement

MARKS: Final[Mapping[Agreement, float]] = {"agrees": 1.0, "tied": 0.5, "disagrees": 0.0}


def buckets(
    answers: Sequence[AnswerRow], opinions: Iterable[OpinionRow], *, since: float, bucket_s: float, count: int
) -> list[ActivityBucket]:
    """`count` stretches of `bucket_s` seconds from `since` on, empty ones included; later rows count in the last."""

    def place(at: float) -> int:
        return min(count - 1, max(0, int((at - since) / bucket_s)))

    given: list[list[AnswerRow]] = [[] for _ in range(count)]
    said: list[Counter[str]] = [Counter() for _ in range(count)]
    for one in answers:
        given[place(one.created_at)].append(one)
    for opinion in opinions:
        said[place(opinion.answered_at)][_kind(opinion)] += 1
    return [
        ActivityBucket(
            at=since + index * bucket_s,
            answers=len(rows),
            failed=sum(one.state is not GroupState.COMPLETED for one in rows),
            reward=_mean(one.reward for one in rows),
            signals=dict(sorted(said[index].items())),
        )
        for index, rows in enumerate(given)
    ]


def by_adapter(answers: Sequence[AnswerRow], opinions: Iterable[OpinionRow]) -> list[AdapterActivity]:
    """Most answers first."""
    given: dict[str, list[AnswerRow]] = defaultdict(list)
    for one in answers:
        given[one.adapter].append(one)
    said = Counter((opinion.adapter, _kind(opinion)) for opinion in opinions)
    return [
        AdapterActivity(
            adapter=adapter,
            answers=len(rows),
            reward=_mean(one.reward for one in rows),
            up=said[adapter, "up"],
            down=said[adapter, "down"],
        )
        for adapter, rows in sorted(given.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def scorer_agreement(opinions: Iterable[OpinionRow], judged: Iterable[JudgedRow]) -> list[ScorerAgreement]:
    """By choices and rankings."""
    values = {row.id: _values(row) for row in judged}
    marks: dict[str, list[float]] = {name: [] for found in values.values() for name in found}
    for opinion in opinions:
        for better, worse in preferences(opinion.kind, opinion.payload):
            for name, view in views(values.get(better, {}), values.get(worse, {})):
                marks[name].append(MARKS[view])
    return [_agreement(name, marks[name]) for name in sorted(marks, key=lambda name: (name != ENSEMBLE, name))]


def rule_agreement(opinions: Iterable[OpinionRow], judged: Iterable[JudgedRow]) -> list[RuleAgreement]:
    """By ratings."""
    rated: dict[str, Counter[str]] = defaultdict(Counter)
    for opinion in opinions:
        if opinion.kind is SignalKind.RATING:
            rated[str(opinion.payload.get("candidate_id"))][_kind(opinion)] += 1
    looked: Counter[str] = Counter()
    applied: dict[str, Counter[str]] = defaultdict(Counter)
    said: dict[str, Counter[str]] = defaultdict(Counter)
    for row in judged:
        for rule, (_, action, _) in row.verdicts.items():
            looked[rule] += 1
            if action != Action.ALLOW:
                applied[rule][action] += 1
                said[rule] += rated.get(row.id, Counter())
    return [
        RuleAgreement(
            rule=rule,
            judged=looked[rule],
            applied=dict(sorted(applied[rule].items())),
            up=said[rule]["up"],
            down=said[rule]["down"],
        )
        for rule in sorted(looked)
    ]


def _kind(opinion: OpinionRow) -> str:
    if opinion.kind is not SignalKind.RATING:
        return str(opinion.kind)
    return "up" if opinion.payload["rating"] > 0 else "down"


def _values(row: JudgedRow) -> dict[str, float]:
    found = {name: value for name, (_, value) in row.scores.items() if value is not None}
    return found if row.total is None else {ENSEMBLE: row.total, **found}


def _agreement(scorer: str, marks: Sequence[float]) -> ScorerAgreement:
    count = len(marks)
    if not count:
        return ScorerAgreement(scorer=scorer, compared=0)
    share = math.fsum(marks) / count
    low, high = wilson(share, count)
    return ScorerAgreement(scorer=scorer, compared=count, share=share, low=low, high=high)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
