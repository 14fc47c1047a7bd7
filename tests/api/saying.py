"""Saying something about an answer, and looking at what became of it."""

from __future__ import annotations

from typing import Any

import httpx
from sqlalchemy import select, update

from server.store import feed, groups, schema, signals
from server.store.records import GroupRecord, SignalRecord
from tests.api.conftest import Stack


async def say(stack: Stack, completion: str, *, headers: dict[str, str] | None = None, **said: Any) -> httpx.Response:
    """Feedback, or a preference where something is compared."""
    path = "/v1/preferences" if said.keys() & {"chosen", "ranking", "tie"} else "/v1/feedback"
    return await stack.client.post(path, json={"completion_id": completion, **said}, headers=headers or {})


async def kept(stack: Stack, completion: str) -> list[tuple[str, str, bool]]:
    """(kind, annotator, live) of every signal of a group, oldest first."""
    table = schema.signals
    query = select(table.c.kind, table.c.annotator, table.c.is_live).where(table.c.group_id == completion)
    return await stack.services.database.read(lambda c: [tuple(row) for row in c.execute(query.order_by(table.c.id))])


async def live(stack: Stack, completion: str) -> list[SignalRecord]:
    return (await stack.services.database.read(lambda c: signals.live_signals(c, [completion])))[completion]


async def taught(stack: Stack, completion: str) -> dict[str, Any] | None:
    """The group as the feed's newest entry about it shows it."""
    page = (await stack.client.get("/v1/training/feed", params={"alias": "default", "limit": 1000})).json()
    entries = [one for one in page["entries"] if one["group_id"] == completion]
    return entries[-1]["group"] if entries else None


async def group_of(stack: Stack, completion: str) -> GroupRecord:
    group = await stack.services.database.read(lambda c: groups.get_group(c, completion))
    assert group is not None
    return group


async def set_group(stack: Stack, completion: str, **values: Any) -> None:
    change = update(schema.groups).where(schema.groups.c.id == completion).values(**values)
    await stack.services.database.write(lambda c: c.execute(change))


async def head(stack: Stack) -> int:
    return await stack.services.database.read(lambda c: feed.head(c, "default"))
