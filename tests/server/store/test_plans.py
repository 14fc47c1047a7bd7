"""What is read and written for each answer, signal and page finds its rows by an index, on each database."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, text

from server.store import erasure, exchange, feed, groups, idempotency, schema, signals
from server.store.database import Database
from server.store.records import FeedKind, MediaRecord, SignalKind, SignalRecord
from tests.server.store.rows import group

COUNT = 4000
ONE = "cmpl-02000"
SOME = [f"cmpl-{number:05d}" for number in range(0, COUNT, COUNT // 50)]
IMAGE = f"{2000:064d}"
LARGE = ("groups", "candidates", "signals", "feed", "idempotency")
"""Tables that grow with use. Not the narrow ones of images: at this size PostgreSQL rather reads them whole."""

Operation = Callable[[Connection], Any]


def said(group_id: str, annotator: str) -> SignalRecord:
    payload = {"candidate_id": f"{group_id}.0", "rating": 1.0}
    return SignalRecord(
        f"sig-{group_id}-{annotator}", group_id, SignalKind.RATING, "rating", annotator, 1000.0, payload
    )


HOT: dict[str, Operation] = {
    "a group": lambda c: groups.get_groups(c, [ONE]),
    "a page of groups": lambda c: groups.get_groups(c, SOME),
    "a group's state": lambda c: groups.get_state(c, ONE),
    "what was said of a page of groups": lambda c: signals.live_signals(c, SOME),
    "how much somebody said lately": lambda c: signals.nth_newest_at(c, "ann-2000", 5),
    "a page of the feed": lambda c: feed.read_after(c, "default", COUNT - 100, 50),
    "an earlier reply": lambda c: idempotency.find_reply(c, "default", "key-2000", "hash"),
    "whether an image may be learned": lambda c: groups.may_be_learned(c, IMAGE, {"default": ["default"]}),
    "an image": lambda c: groups.get_media(c, IMAGE),
    "which imports are known": lambda c: (exchange.states_of(c, SOME), exchange.known_signals(c, SOME)),
    "a page of the export": lambda c: exchange.completed_after(
        c, "default", (1000.0 + COUNT - 50, ONE), tenants=["default"], is_holdout=None, limit=50
    ),
    "what scorers said lately": lambda c: groups.recent_scores(c, "default", 20),
    "the newest hold-out": lambda c: groups.recent_holdout(c, "default", 20),
    "a user's groups": lambda c: erasure.groups_of(c, "default", "user-2000"),
    "a signal's write": lambda c: signals.insert_signal(c, said(ONE, "zoe")),
    "an entry's write": lambda c: feed.append(c, "default", ONE, FeedKind.SIGNAL, 0.0),
    "a correction's place": lambda c: groups.add_candidate(c, ONE, group("x").candidates[0]),
}


def fill(connection: Connection) -> None:
    made = [
        group(
            f"cmpl-{number:05d}",
            created_at=1000.0 + number,
            user_hash=f"user-{number}",
            is_holdout=number % 10 == 0,
            media=(MediaRecord(f"{number:064d}", "image/png", 3),),
        )
        for number in range(COUNT)
    ]
    groups.insert_groups(connection, made)
    rows = [said(one.id, f"ann-{number}") for number, one in enumerate(made)]
    columns = [column.name for column in schema.signals.columns if hasattr(rows[0], column.name)]
    connection.execute(insert(schema.signals), [{name: getattr(row, name) for name in columns} for row in rows])
    feed.append_all(connection, "default", [one.id for one in made], FeedKind.SIGNAL, 0.0)
    replies = [
        {"tenant": "default", "key": f"key-{number}", "annotator": "ann", "request_hash": "hash", "reply": {}}
        for number in range(COUNT)
    ]
    connection.execute(insert(schema.idempotency), [{**row, "created_at": 0.0} for row in replies])
    if connection.dialect.name == "postgresql":
        connection.execute(text("ANALYZE"))  # as the server's own maintenance does


def whole_tables(connection: Connection, operation: Operation) -> list[str]:
    """The large tables that the operation's statements read from one end to the other."""
    statements: list[tuple[str, Any]] = []

    def note(c: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if not statement.startswith("INSERT"):
            statements.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", note)
    operation(connection)
    event.remove(connection, "before_cursor_execute", note)
    assert statements
    return [table for statement, parameters in statements for table in scanned(connection, statement, parameters)]


def scanned(connection: Connection, statement: str, parameters: Any) -> list[str]:
    if connection.dialect.name == "sqlite":
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        steps = [row.detail.split() for row in rows]
        return [step[1] for step in steps if step[0] == "SCAN" and step[1] in LARGE and "USING" not in step]
    plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
    found = json.loads(plan) if isinstance(plan, str) else plan
    return [node["Relation Name"] for node in nodes(found[0]["Plan"]) if node["Node Type"] == "Seq Scan"]


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for part in plan.get("Plans", []) for node in nodes(part))]


@pytest.mark.timeout(180)
async def test_nothing_hot_reads_a_whole_table(database: Database) -> None:
    """However many groups there are, each of these looks at its own rows."""
    await database.write(fill)
    for name, operation in HOT.items():
        found = await database.write(lambda c, operation=operation: whole_tables(c, operation))
        assert not set(found) & set(LARGE), name


async def test_a_read_of_a_whole_table_would_be_seen(database: Database) -> None:
    """The check itself: a query without an index is found out."""
    await database.write(fill)
    without = text("SELECT id FROM groups WHERE engine_version = 'x'")
    assert await database.write(lambda c: whole_tables(c, lambda c: c.execute(without))) == ["groups"]
