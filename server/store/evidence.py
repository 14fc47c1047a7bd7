"""What came in since a canary began, in the order of the commits, whichever server wrote it.

`groups` and `signals` are followed by `seq`: a page is a range of it, so every read is bounded by its width, uses the
primary key alone, and costs the way of an answer no index. What counts:

1. answers that are completed or failed, at the trial's generation or a later one (a move that leaves active, canary
   and share alone does not begin a new trial);
2. of the canary's side whatever was assigned to it, also where base had to answer, which is a failure; of the active
   side what the active adapter answered: who asked for another adapter by its id took part in nothing;
3. ratings that still hold, about answers that count and were given by the side's own adapter, refusals included; what
   another policy said for comparison (`server.pipeline.exploring`) is nobody's evidence.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import ColumnElement, Connection, and_, func, insert, or_, select

from server.store import schema
from server.store.records import POLICY, Answered, GroupState, Position, Rated, Routing, SignalKind, TrialRecord

PAGE = 1000
"""Width of the range that one read covers."""


@dataclass(frozen=True, slots=True)
class Page:
    """What was found in a range, and up to where it reaches. `is_last`: there was no more when it was read."""

    answers: tuple[Answered, ...]
    ratings: tuple[Rated, ...]
    position: Position
    is_last: bool


def begin_trial(connection: Connection, routing: Routing) -> None:
    """Note that the canary's evidence begins here, in the transaction of the move."""
    assert routing.canary is not None
    position = _head(connection)
    record = TrialRecord(
        alias=routing.alias,
        generation=routing.generation,
        active=routing.active,
        canary=routing.canary,
        share=routing.canary_share,
        started_at=routing.updated_at,
        after_group=position.group,
        after_signal=position.signal,
    )
    connection.execute(insert(schema.trials), asdict(record))


def last_trial(connection: Connection, alias: str) -> TrialRecord | None:
    """The alias's newest trial, whether it still runs or not."""
    table = schema.trials
    query = select(table).where(table.c.alias == alias).order_by(table.c.generation.desc()).limit(1)
    row = connection.execute(query).mappings().one_or_none()
    return TrialRecord(**row) if row else None


def read_after(connection: Connection, trial: TrialRecord, after: Position, width: int = PAGE) -> Page:
    """What counts for the trial in the next ranges of groups and signals."""
    head = _head(connection)
    upto = Position(min(after.group + width, head.group), min(after.signal + width, head.signal))
    return Page(
        _answers(connection, trial, after.group, upto.group),
        _ratings(connection, trial, after.signal, upto.signal),
        upto,
        is_last=upto == head,
    )


def _head(connection: Connection) -> Position:
    newest = (connection.execute(select(func.max(table.c.seq))).scalar() for table in (schema.groups, schema.signals))
    group, signal = (seq or 0 for seq in newest)
    return Position(group, signal)


def _takes_part(trial: TrialRecord) -> ColumnElement[bool]:
    table = schema.groups
    return and_(
        table.c.alias == trial.alias,
        table.c.generation >= trial.generation,
        or_(table.c.is_canary, table.c.adapter == trial.active),
    )


_UNIT = func.coalesce(schema.groups.c.user_hash, schema.groups.c.id).label("unit")


def _answers(connection: Connection, trial: TrialRecord, after: int, upto: int) -> tuple[Answered, ...]:
    table, candidates = schema.groups, schema.candidates
    is_own = candidates.c.adapter == table.c.adapter  # not another policy's, made for comparison
    # Not `exists`: PostgreSQL may answer that by one pass through all candidates.
    blocked = (
        select(candidates.c.id).where(candidates.c.group_id == table.c.id, candidates.c.is_blocked, is_own).limit(1)
    )
    rows = connection.execute(
        select(
            _UNIT,
            table.c.is_canary,
            table.c.adapter,
            table.c.state,
            table.c.created_at,
            table.c.reward,
            table.c.duration_s,
            blocked.scalar_subquery().label("blocked"),
        )
        .where(table.c.seq > after, table.c.seq <= upto, _takes_part(trial))
        .where(table.c.state.in_([GroupState.COMPLETED, GroupState.FAILED]))
        .order_by(table.c.seq)
    )
    return tuple(
        Answered(
            unit=row.unit,
            is_canary=row.is_canary,
            at=row.created_at,
            is_blocked=row.blocked is not None,
            has_failed=row.state == GroupState.FAILED or (row.is_canary and row.adapter != trial.canary),
            reward=row.reward,
            duration_s=row.duration_s,
        )
        for row in rows
    )


def _ratings(connection: Connection, trial: TrialRecord, after: int, upto: int) -> tuple[Rated, ...]:
    table, groups, candidates = schema.signals, schema.groups, schema.candidates
    rows = connection.execute(
        select(_UNIT, groups.c.is_canary, table.c.created_at, table.c.payload)
        .join(groups, groups.c.id == table.c.group_id)
        .outerjoin(candidates, candidates.c.id == table.c.payload["candidate_id"].as_string())
        .where(or_(candidates.c.adapter.is_(None), candidates.c.adapter.in_([groups.c.adapter, POLICY])))
        .where(table.c.seq > after, table.c.seq <= upto, table.c.kind == SignalKind.RATING)
        .where(table.c.is_live, ~table.c.is_quarantined)
        .where(_takes_part(trial), or_(~groups.c.is_canary, groups.c.adapter == trial.canary))
        .where(groups.c.state == GroupState.COMPLETED)
        .order_by(table.c.seq)
    )
    return tuple(Rated(row.unit, row.is_canary, row.created_at, float(row.payload["rating"])) for row in rows)
