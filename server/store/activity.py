"""What happened lately, for operators to look at: bounded reads of an alias's newest answers and what was said of them.

`limit` bounds the answers; opinions and candidates are those of the same answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Subquery, select

from server.store import schema
from server.store.records import GroupState, SignalKind

COUNTED = (GroupState.COMPLETED, GroupState.ABORTED, GroupState.FAILED)


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """One request. `reward`: what the ensemble finds of its answer, without the policy's own opinion."""

    created_at: float
    adapter: str
    state: GroupState
    reward: float | None


@dataclass(frozen=True, slots=True)
class OpinionRow:
    """One live signal that is not set aside, with the time and adapter of the answer that it is about."""

    answered_at: float
    adapter: str
    kind: SignalKind
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """One candidate: what scorers ({scorer: [version, value]}) and rules ({rule: [version, action, reason]}) said."""

    id: str
    total: float | None
    scores: dict[str, Any]
    verdicts: dict[str, Any]


def answers(connection: Connection, alias: str, since: float, limit: int) -> list[AnswerRow]:
    """Newest first."""
    newest = _newest(alias, since, limit)
    rows = connection.execute(
        select(newest.c.created_at, newest.c.adapter, newest.c.state, newest.c.reward).order_by(
            newest.c.created_at.desc()
        )
    )
    return [AnswerRow(at, adapter, GroupState(state), reward) for at, adapter, state, reward in rows]


def opinions(connection: Connection, alias: str, since: float, limit: int) -> list[OpinionRow]:
    """Oldest first."""
    newest, table = _newest(alias, since, limit), schema.signals
    rows = connection.execute(
        select(newest.c.created_at, newest.c.adapter, table.c.kind, table.c.payload)
        .join(newest, newest.c.id == table.c.group_id)
        .where(table.c.is_live, ~table.c.is_quarantined)
        .order_by(table.c.seq)
    )
    return [OpinionRow(at, adapter, SignalKind(kind), payload) for at, adapter, kind, payload in rows]


def judged(connection: Connection, alias: str, since: float, limit: int) -> list[JudgedRow]:
    """The candidates of those answers, in no order."""
    newest, table = _newest(alias, since, limit), schema.candidates
    rows = connection.execute(
        select(table.c.id, table.c.total, table.c.scores, table.c.verdicts).join(
            newest, newest.c.id == table.c.group_id
        )
    )
    return [JudgedRow(*row) for row in rows]


def _newest(alias: str, since: float, limit: int) -> Subquery:
    table = schema.groups
    return (
        select(table.c.id, table.c.created_at, table.c.adapter, table.c.state, table.c.reward)
        .where(table.c.alias == alias, table.c.created_at >= since, table.c.state.in_([str(one) for one in COUNTED]))
        .order_by(table.c.created_at.desc())
        .limit(limit)
        .subquery()
    )
