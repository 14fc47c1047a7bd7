"""Groups: one prompt, its candidates, its images."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, bindparam, func, insert, or_, select, update

from reward.types import REJECTED, STEP
from server.store import schema
from server.store.arrays import pack_floats, pack_ids, unpack_floats, unpack_ids
from server.store.dialect import insert_missing
from server.store.records import CandidateRecord, GroupRecord, GroupState, MediaRecord

# Made once: these are on the way of every answer and signal, and making a statement costs as much as running it.
_GROUP_COLUMNS = tuple(column.name for column in schema.groups.columns if column.name != "seq")
_INSERT_GROUP, _INSERT_CANDIDATE, _INSERT_SHOWN = map(insert, (schema.groups, schema.candidates, schema.group_media))
_TOUCH = (
    update(schema.groups)
    .where(schema.groups.c.id.in_(bindparam("ids", expanding=True)))
    .values(revision=schema.groups.c.revision + 1)
    .returning(schema.groups.c.id, schema.groups.c.revision)
)


def insert_group(connection: Connection, group: GroupRecord) -> None:
    """Store a group with everything that belongs to it. Its images must already lie in the blob store."""
    insert_groups(connection, [group])


def insert_groups(connection: Connection, groups: Sequence[GroupRecord]) -> None:
    """Store many at once, one statement for each table."""
    media = [
        {"sha256": one.sha256, "mime": one.mime, "size_bytes": one.size_bytes, "created_at": group.created_at}
        for group in groups
        for one in group.media
    ]
    shown = [
        {"group_id": group.id, "position": position, "sha256": one.sha256}
        for group in groups
        for position, one in enumerate(group.media)
    ]
    candidates = [_candidate_row(group.id, one) for group in groups for one in group.candidates]
    for statement, rows in (
        (insert_missing(connection, schema.media), media),
        (_INSERT_GROUP, [_group_row(group) for group in groups]),
        (_INSERT_CANDIDATE, candidates),
        (_INSERT_SHOWN, shown),
    ):
        if rows:
            connection.execute(statement, rows)


def add_candidate(connection: Connection, group_id: str, candidate: CandidateRecord) -> None:
    """Add an answer that came later (a correction, an answer given again) behind the group's others."""
    table = schema.candidates
    last = connection.execute(select(func.max(table.c.position)).where(table.c.group_id == group_id)).scalar()
    placed = dataclasses.replace(candidate, position=0 if last is None else last + 1)
    connection.execute(insert(table), _candidate_row(group_id, placed))


def get_group(connection: Connection, group_id: str) -> GroupRecord | None:
    return next(iter(get_groups(connection, [group_id])), None)


def get_state(connection: Connection, group_id: str) -> GroupState | None:
    state = connection.execute(select(schema.groups.c.state).where(schema.groups.c.id == group_id)).scalar()
    return None if state is None else GroupState(state)


def get_groups(connection: Connection, group_ids: Sequence[str]) -> list[GroupRecord]:
    """The groups that exist, in the order asked for."""
    groups = {
        row["id"]: row
        for row in connection.execute(select(schema.groups).where(schema.groups.c.id.in_(group_ids))).mappings()
    }
    candidates: dict[str, list[CandidateRecord]] = {group_id: [] for group_id in groups}
    for row in connection.execute(
        select(schema.candidates)
        .where(schema.candidates.c.group_id.in_(list(groups)))
        .order_by(schema.candidates.c.position)
    ).mappings():
        candidates[row["group_id"]].append(_candidate(row))
    media: dict[str, list[MediaRecord]] = {group_id: [] for group_id in groups}
    for row in connection.execute(
        select(schema.group_media.c.group_id, schema.media)
        .join(schema.media)
        .where(schema.group_media.c.group_id.in_(list(groups)))
        .order_by(schema.group_media.c.position)
    ).mappings():
        media[row["group_id"]].append(MediaRecord(row["sha256"], row["mime"], row["size_bytes"]))
    return [
        _group(groups[group_id], candidates[group_id], media[group_id])
        for group_id in dict.fromkeys(group_ids)
        if group_id in groups
    ]


def touch(connection: Connection, group_ids: Sequence[str]) -> dict[str, int]:
    """Grow the groups' revisions by one; the new revisions. Only the feed does: where it is 0, nothing was told."""
    return {row.id: row.revision for row in connection.execute(_TOUCH, {"ids": list(group_ids)})}


def recent_holdout(connection: Connection, alias: str, limit: int) -> list[GroupRecord]:
    """The newest completed hold-out groups about which somebody said something."""
    ids = connection.execute(
        select(schema.groups.c.id)
        .where(
            schema.groups.c.alias == alias,
            schema.groups.c.is_holdout,
            schema.groups.c.state == GroupState.COMPLETED,
            select(schema.signals.c.id)
            .where(schema.signals.c.group_id == schema.groups.c.id, schema.signals.c.is_live)
            .exists(),
        )
        .order_by(schema.groups.c.created_at.desc())
        .limit(limit)
    ).scalars()
    return get_groups(connection, list(ids))


def recent_scores(connection: Connection, alias: str, limit: int) -> list[dict[str, Any]]:
    """What scorers said ({scorer: [version, value]}) of the whole candidates of the newest groups, oldest first."""
    table, candidates = schema.groups, schema.candidates
    newest = (
        select(table.c.id, table.c.created_at)
        .where(table.c.alias == alias, table.c.state == GroupState.COMPLETED)
        .order_by(table.c.created_at.desc())
        .limit(limit)
        .subquery()
    )
    rows = connection.execute(
        select(candidates.c.scores)
        .join(newest, newest.c.id == candidates.c.group_id)
        .where(candidates.c.finish_reason.not_in([REJECTED, STEP]))
        .order_by(newest.c.created_at, candidates.c.position)
    )
    return [scores for scores in rows.scalars() if scores]


def may_be_learned(connection: Connection, sha256: str, tenants: Mapping[str, Collection[str]]) -> bool:
    """Whether a group shows the image that the feed has told of, and that may train. `tenants`: who may, by alias."""
    table, shown = schema.groups, schema.group_media
    allowed = [and_(table.c.alias == alias, table.c.tenant.in_(list(names))) for alias, names in tenants.items()]
    query = (
        select(table.c.id)
        .join(shown, shown.c.group_id == table.c.id)
        .where(shown.c.sha256 == sha256, table.c.revision > 0, ~table.c.is_holdout, or_(*allowed))
        .where(table.c.state == GroupState.COMPLETED)
        .limit(1)
    )
    return connection.execute(query).first() is not None


def get_media(connection: Connection, sha256: str) -> MediaRecord | None:
    row = connection.execute(select(schema.media).where(schema.media.c.sha256 == sha256)).mappings().one_or_none()
    return MediaRecord(row["sha256"], row["mime"], row["size_bytes"]) if row else None


def _group_row(group: GroupRecord) -> dict[str, Any]:
    row = {name: getattr(group, name) for name in _GROUP_COLUMNS}
    row["prompt_token_ids"] = pack_ids(group.prompt_token_ids)
    row["degraded"] = list(group.degraded)
    return row


def _candidate_row(group_id: str, candidate: CandidateRecord) -> dict[str, Any]:
    row: dict[str, Any] = {field.name: getattr(candidate, field.name) for field in dataclasses.fields(candidate)}
    row["group_id"] = group_id
    row["token_ids"] = pack_ids(candidate.token_ids)
    row["logprobs"] = pack_floats(candidate.logprobs)
    return row


def _candidate(row: RowMapping) -> CandidateRecord:
    values = {field.name: row[field.name] for field in dataclasses.fields(CandidateRecord)}
    values["token_ids"] = unpack_ids(row["token_ids"])
    values["logprobs"] = unpack_floats(row["logprobs"])
    return CandidateRecord(**values)


def _group(row: RowMapping, candidates: Iterable[CandidateRecord], media: Iterable[MediaRecord]) -> GroupRecord:
    values = {name: row[name] for name in _GROUP_COLUMNS}
    values["state"] = GroupState(row["state"])
    values["prompt_token_ids"] = unpack_ids(row["prompt_token_ids"])
    values["degraded"] = tuple(row["degraded"])
    return GroupRecord(**values, candidates=tuple(candidates), media=tuple(media))
