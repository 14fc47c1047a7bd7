"""Groups: one prompt, its candidates, its images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from server.store import schema
from server.store.arrays import pack_floats, pack_ids, unpack_floats, unpack_ids
from server.store.dialect import upsert
from server.store.records import CandidateRecord, GroupRecord, GroupState, MediaRecord


def insert_group(connection: Connection, group: GroupRecord) -> None:
    """Store a group with everything that belongs to it. Its images must already lie in the blob store."""
    row = {column.name: getattr(group, column.name) for column in schema.groups.columns}
    row["prompt_token_ids"] = pack_ids(group.prompt_token_ids)
    row["degraded"] = list(group.degraded)
    for media in group.media:
        connection.execute(
            upsert(connection, schema.media).on_conflict_do_nothing(),
            {**dataclasses.asdict(media), "created_at": group.created_at},
        )
    connection.execute(insert(schema.groups), row)
    if group.candidates:
        connection.execute(insert(schema.candidates), [_candidate_row(group.id, one) for one in group.candidates])
    if group.media:
        connection.execute(
            insert(schema.group_media),
            [
                {"group_id": group.id, "position": position, "sha256": media.sha256}
                for position, media in enumerate(group.media)
            ],
        )


def add_candidate(connection: Connection, group_id: str, candidate: CandidateRecord) -> None:
    """Add a correction typed by a person to its group."""
    connection.execute(insert(schema.candidates), _candidate_row(group_id, candidate))


def get_group(connection: Connection, group_id: str) -> GroupRecord | None:
    return next(iter(get_groups(connection, [group_id])), None)


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


def touch(connection: Connection, group_id: str) -> int:
    """Grow the group's revision by one; the new revision."""
    revision: int = connection.execute(
        update(schema.groups)
        .where(schema.groups.c.id == group_id)
        .values(revision=schema.groups.c.revision + 1)
        .returning(schema.groups.c.revision)
    ).scalar_one()
    return revision


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


def get_media(connection: Connection, sha256: str) -> MediaRecord | None:
    row = connection.execute(select(schema.media).where(schema.media.c.sha256 == sha256)).mappings().one_or_none()
    return MediaRecord(row["sha256"], row["mime"], row["size_bytes"]) if row else None


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
    values = dict(row)
    values["state"] = GroupState(row["state"])
    values["prompt_token_ids"] = unpack_ids(row["prompt_token_ids"])
    values["degraded"] = tuple(row["degraded"])
    return GroupRecord(**values, candidates=tuple(candidates), media=tuple(media))
