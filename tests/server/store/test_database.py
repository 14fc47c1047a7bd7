"""The store keeps what it acknowledged, all or nothing, and commits together what waits together."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from server.errors import BadRequest, StorageUnavailable
from server.store.database import SqliteDatabase
from server.store.migrate import migrate


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    database = SqliteDatabase(tmp_path / "test.db", read_connections=2)
    migrate(database.writer_engine)
    database.start()
    yield database
    await database.close()


def add_entry(connection: Connection, subject: str) -> None:
    connection.execute(
        text("INSERT INTO audit (at, actor, action, subject, detail) VALUES (0, 'a', 'b', :s, '{}')"), {"s": subject}
    )


def count(connection: Connection) -> int:
    return connection.execute(text("SELECT count(*) FROM audit")).scalar_one()


async def test_a_write_is_seen_by_the_next_read(database: SqliteDatabase) -> None:
    """What was acknowledged is there."""
    await database.write(lambda c: add_entry(c, "x"))
    assert await database.read(count) == 1


async def test_a_failing_operation_leaves_nothing_and_spoils_no_other(database: SqliteDatabase) -> None:
    """All or nothing for each operation, even when many share a commit (I2)."""

    def fail(connection: Connection) -> None:
        add_entry(connection, "half done")
        raise BadRequest("no")

    results = await asyncio.gather(
        *(database.write(fail if i % 5 == 0 else lambda c: add_entry(c, "ok")) for i in range(50)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, BadRequest) for result in results) == 10
    assert await database.read(count) == 40


async def test_waiting_writes_share_a_commit(database: SqliteDatabase) -> None:
    """One sync serves all that wait."""
    await asyncio.gather(*(database.write(lambda c: add_entry(c, "x")) for _ in range(500)))
    assert database.commits < 100


async def test_a_broken_database_says_so(database: SqliteDatabase) -> None:
    """A failure of the database itself is `StorageUnavailable`, not an internal error."""
    with pytest.raises(StorageUnavailable):
        await database.write(lambda c: c.execute(text("INSERT INTO no_such_table VALUES (1)")))
    with pytest.raises(StorageUnavailable):
        await database.read(lambda c: c.execute(text("SELECT * FROM no_such_table")))
    await database.write(lambda c: add_entry(c, "still works"))
    assert await database.check() == []


async def test_readers_cannot_write(database: SqliteDatabase) -> None:
    """There is one writing connection."""
    with pytest.raises(StorageUnavailable):
        await database.read(lambda c: add_entry(c, "x"))


async def test_close_finishes_what_was_queued(tmp_path: Path) -> None:
    """An orderly end loses nothing, and later writes are refused."""
    database = SqliteDatabase(tmp_path / "test.db", read_connections=1)
    migrate(database.writer_engine)
    database.start()
    writes = [asyncio.ensure_future(database.write(lambda c: add_entry(c, "x"))) for _ in range(100)]
    await asyncio.sleep(0)
    await database.close()
    await asyncio.gather(*writes)
    with pytest.raises(StorageUnavailable):
        await database.write(lambda c: add_entry(c, "late"))


def test_the_schema_is_what_the_migrations_make(tmp_path: Path) -> None:
    """A migrated database and the tables in code are the same."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from server.store.schema import metadata

    database = SqliteDatabase(tmp_path / "test.db", read_connections=1)
    migrate(database.writer_engine)
    with database.writer_engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
