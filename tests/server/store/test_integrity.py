"""The check of the whole state finds what was broken on purpose, one thing at a time, and nothing in a sound state."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, text

from server.adapters.registry import AdapterRegistry
from server.integrity import GRACE_S, Problem, check_state
from server.store import adapters, audit, erasure, feed, groups, routing, signals
from server.store.blobs import LocalBlobs
from server.store.database import Database
from server.store.integrity import QUESTIONS
from server.store.records import (
    AdapterRecord,
    AdapterState,
    FeedKind,
    MediaRecord,
    Report,
    Routing,
    SignalKind,
    SignalRecord,
)
from server.wire.base import BASE
from tests.server.store.rows import group

NOW = 10_000.0
IMAGE = b"an image"
SHA256 = hashlib.sha256(IMAGE).hexdigest()
ADAPTER = "a00001-000000000000"
CONTENT = b"weights"


@dataclass
class State:
    """A small sound state."""

    database: Database
    blobs: LocalBlobs
    registry: AdapterRegistry
    directory: Path

    async def check(self) -> list[Problem]:
        return await check_state(self.database, self.blobs, self.registry, now=NOW)

    async def broken_by(self, statements: list[str]) -> dict[str, list[str]]:
        """What each question finds after statements that pass every constraint; they are undone."""

        def run(connection: Connection) -> dict[str, list[str]]:
            for statement in statements:
                connection.execute(text(statement))
            return {check: question(connection) for check, (question, _) in QUESTIONS.items()}

        def run_and_undo(connection: Connection) -> None:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            raise Undone(run(connection))

        file = self.directory / "test.db"
        if file.exists():
            # Foreign keys are off unless a connection asks for them.
            engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(file, isolation_level=None))
            with engine.connect() as connection:
                connection.exec_driver_sql("BEGIN")
                found = run(connection)
                connection.exec_driver_sql("ROLLBACK")
            engine.dispose()
            return found
        with pytest.raises(Undone) as undone:
            await self.database.write(run_and_undo)
        return undone.value.found


class Undone(Exception):
    """Carries what was found out of a transaction that is not to last."""

    def __init__(self, found: dict[str, list[str]]) -> None:
        super().__init__()
        self.found = found


def opinion(group_id: str, number: int = 1, **changes: object) -> SignalRecord:
    payload = {"candidate_id": f"{group_id}.0", "rating": 1.0}
    values = {"id": f"sig-{group_id}-{number}", "slot": "rating", "annotator": "u", "payload": payload, **changes}
    return SignalRecord(group_id=group_id, kind=SignalKind.RATING, created_at=1.0, **values)  # type: ignore[arg-type]


@pytest.fixture
async def state(database: Database, tmp_path: Path) -> State:
    blobs = LocalBlobs(tmp_path / "media", clock=lambda: NOW)
    await blobs.put(SHA256, IMAGE)
    folder = tmp_path / "adapters" / ADAPTER
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(CONTENT)
    manifest = {
        "base_digest": "d",
        "files": {
            "adapter_model.safetensors": {"size_bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))

    def fill(connection: Connection) -> None:
        for name, changes in {"kept": {}, "held": {"is_holdout": True}, "gone": {"user_hash": "gone"}}.items():
            media = (MediaRecord(SHA256, "image/png", len(IMAGE)),) if name == "kept" else ()
            groups.insert_group(connection, group(name, media=media, **changes))
            signals.insert_signal(connection, opinion(name))
            if name != "held":
                feed.append(connection, "default", name, FeedKind.SIGNAL, 1.0)
        erasure.erase(connection, ["gone"], "nobody", 2.0)
        record = AdapterRecord(ADAPTER, 1, "default", AdapterState.ACTIVE, BASE, manifest, 1.0, 1.0)
        assert adapters.next_number(connection) == record.number
        adapters.insert_adapter(connection, record)
        for subject in (ADAPTER, "default"):
            adapters.add_report(connection, subject, Report("integrity", "passed", {}, 1.0))
        routing.create_routing(connection, Routing("default", updated_at=1.0, active=ADAPTER))
        audit.record(connection, actor="a", action="b", subject="c", detail={}, now=1.0)

    await database.write(fill)
    registry = AdapterRegistry(
        database,
        tmp_path / "adapters",
        tmp_path / "uploads",
        engine_model="m",
        base_digest="d",
        max_lora_rank=8,
        aliases=["default"],
        clock=lambda: NOW,
    )
    return State(database, blobs, registry, tmp_path)


async def test_a_sound_state_has_nothing_wrong(state: State) -> None:
    """No false alarm, images without a row included while they are young."""
    await state.blobs.put(hashlib.sha256(b"just now").hexdigest(), b"just now")
    assert await state.check() == []


BROKEN = [
    ("references", "DELETE FROM groups WHERE id = 'held'"),
    ("references", "UPDATE feed SET group_id = 'nobody' WHERE group_id = 'gone'"),
    ("groups", "DELETE FROM candidates WHERE group_id = 'held'"),
    ("tombstones", "UPDATE groups SET prompt = '[{}]' WHERE id = 'gone'"),
    ("tombstones", "UPDATE groups SET user_hash = 'somebody' WHERE id = 'gone'"),
    ("tombstones", "UPDATE signals SET group_id = 'gone' WHERE group_id = 'held'"),
    ("signals", "DROP INDEX uq_signals_live; UPDATE signals SET is_live = TRUE"),
    ("signal content", "UPDATE candidates SET id = 'other' WHERE id = 'kept.0'"),
    ("feed", "DELETE FROM feed WHERE seq = 2"),
    ("feed", "UPDATE feed_heads SET seq = 9"),
    ("feed", "DELETE FROM feed_heads"),
    ("revisions", "UPDATE groups SET revision = 0 WHERE id = 'kept'"),
    ("hold-out", "UPDATE groups SET is_holdout = TRUE WHERE id = 'kept'"),
    ("routing", "UPDATE adapters SET state = 'rejected'"),
    ("routing", "UPDATE routing SET canary = 'nobody'"),
    ("routing", f"UPDATE routing SET active = 'base', canary = '{ADAPTER}'"),
    ("routing", "UPDATE routing SET active = 'base'"),
    ("routing", "UPDATE routing SET active = 'base'; UPDATE adapters SET state = 'canary'"),
    ("routing", "UPDATE routing SET canary_share = 0.5"),
    ("routing", "UPDATE adapters SET alias = 'other'"),
    ("adapter rows", "UPDATE adapters SET parent = 'a00000-nobody'"),
    ("adapter rows", "UPDATE counters SET value = 0"),
    ("adapter rows", "DELETE FROM counters"),
    ("adapter rows", "UPDATE reports SET subject = 'a00007-nobody' WHERE subject <> 'default'"),
]
"""Question, what gives it something to find."""


async def test_broken_rows_are_found(state: State) -> None:
    """Each by its own question, in words."""
    await state.database.write(lambda c: signals.insert_signal(c, opinion("kept", 2)))
    assert {check for check, _ in BROKEN} == set(QUESTIONS)
    for check, statements in BROKEN:
        found = await state.broken_by(statements.split("; "))
        assert found[check], statements
        assert all(found[check])
    assert await state.check() == []


def lose(state: State) -> None:
    (state.directory / "media" / SHA256[:2] / SHA256).unlink()


def change(state: State) -> None:
    (state.directory / "media" / SHA256[:2] / SHA256).write_bytes(b"another.")


def leave_over(state: State) -> None:
    digest = hashlib.sha256(b"old").hexdigest()
    path = state.directory / "media" / digest[:2] / digest
    path.write_bytes(b"old")
    os.utime(path, (NOW - GRACE_S - 1,) * 2)


def flip(state: State) -> None:
    (state.directory / "adapters" / ADAPTER / "adapter_model.safetensors").write_bytes(b"weightz")


def drop(state: State) -> None:
    (state.directory / "adapters" / ADAPTER / "adapter_model.safetensors").unlink()


@pytest.mark.parametrize(
    ("hurt", "check"),
    [(lose, "images"), (change, "images"), (leave_over, "images"), (flip, "adapters"), (drop, "adapters")],
)
async def test_broken_files_are_found(state: State, hurt: Callable[[State], None], check: str) -> None:
    """By content, not by name."""
    hurt(state)
    found = await state.check()
    assert all(problem.what and problem.remedy for problem in found)
    assert [problem.check for problem in found] == [check]


async def test_what_cannot_be_read_is_a_finding(state: State) -> None:
    """Not an exception: whoever checks wants to know."""
    await state.database.write(lambda c: c.execute(text("ALTER TABLE media RENAME TO elsewhere")))
    assert [problem.check for problem in await state.check()][-1] == "database"
