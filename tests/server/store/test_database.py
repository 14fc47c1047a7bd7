"""The store keeps what it acknowledged, all or nothing, and commits together what waits together."""

import asyncio
from collections.abc import Sequence

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, func, insert, select, text

from server.errors import BadRequest, StorageUnavailable
from server.store import audit, schema
from server.store.database import Database
from tests.server.store.conftest import NewDatabase


def add_entry(connection: Connection, subject: str) -> None:
    audit.record(connection, actor="a", action="b", subject=subject, detail={}, now=0.0)


def count(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(schema.audit)).scalar_one()


async def test_a_write_is_seen_by_the_next_read(database: Database) -> None:
    """What was acknowledged is there."""
    await database.write(lambda c: add_entry(c, "x"))
    assert await database.read(count) == 1


async def test_what_was_written_outlives_the_process(new_database: NewDatabase) -> None:
    """An orderly end and a new start lose nothing, and the schema is brought up to date only once."""
    for expected in (1, 2, 3):
        database = new_database()
        await database.start()
        await database.write(lambda c: add_entry(c, "x"))
        assert await database.read(count) == expected
        await database.close()


async def test_a_failing_operation_leaves_nothing_and_spoils_no_other(database: Database) -> None:
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


async def test_waiting_writes_share_a_commit(database: Database) -> None:
    """One sync serves all that wait."""
    await asyncio.gather(*(database.write(lambda c: add_entry(c, "x")) for _ in range(500)))
    assert database.commits < 100


async def test_a_failure_of_the_database_says_so(database: Database) -> None:
    """A failure of the database itself is `StorageUnavailable`, not an internal error, and passes."""
    with pytest.raises(StorageUnavailable):
        await database.write(lambda c: c.execute(text("INSERT INTO no_such_table VALUES (1)")))
    with pytest.raises(StorageUnavailable):
        await database.read(lambda c: c.execute(text("SELECT * FROM no_such_table")))
    await database.write(lambda c: add_entry(c, "still works"))
    assert await database.check() == []


async def test_readers_cannot_write(database: Database) -> None:
    """There is one writing connection."""
    with pytest.raises(StorageUnavailable):
        await database.read(lambda c: add_entry(c, "x"))


async def test_a_read_is_one_snapshot(database: Database) -> None:
    """What is committed while a read goes on is not seen by it."""
    begun, loop = asyncio.Event(), asyncio.get_running_loop()

    def read_twice(connection: Connection) -> tuple[int, int]:
        first = count(connection)
        loop.call_soon_threadsafe(begun.set)
        for _ in range(2000):  # until the writer is through, without leaving the transaction
            if committed:
                break
            connection.execute(text("SELECT 1"))
        return first, count(connection)

    committed: list[int] = []
    reading = asyncio.ensure_future(database.read(read_twice))
    await begun.wait()
    await database.write(lambda c: add_entry(c, "meanwhile"))
    committed.append(1)
    assert await reading == (0, 0)
    assert await database.read(count) == 1


async def test_a_write_waits_for_other_servers(new_database: NewDatabase) -> None:
    """Read, decide, write: two servers that do it at once do it one after the other."""
    servers = [new_database() for _ in range(2)]
    if type(servers[0]).__name__ == "SqliteDatabase":
        pytest.skip("SQLite belongs to one server")
    for server in servers:
        await server.start()

    def grow(connection: Connection) -> None:
        table = schema.audit
        number = count(connection)
        connection.execute(insert(table).values(at=number, actor="", action="", subject="", detail={}))

    await asyncio.gather(*(server.write(grow) for _ in range(100) for server in servers))
    numbers = await servers[0].read(lambda c: c.execute(select(schema.audit.c.at)).scalars().all())
    assert sorted(numbers) == list(range(200))
    for server in servers:
        await server.close()


async def test_close_finishes_what_was_queued(new_database: NewDatabase) -> None:
    """An orderly end loses nothing, and later calls are refused."""
    database = new_database()
    await database.start()
    writes = [asyncio.ensure_future(database.write(lambda c: add_entry(c, "x"))) for _ in range(100)]
    await asyncio.sleep(0)
    await database.close()
    await asyncio.gather(*writes)
    with pytest.raises(StorageUnavailable):
        await database.write(lambda c: add_entry(c, "late"))
    with pytest.raises(StorageUnavailable):
        await database.read(count)


async def test_the_schema_is_what_the_migrations_make(database: Database) -> None:
    """A migrated database and the tables in code are the same."""
    differences = await database.read(lambda c: compare_metadata(MigrationContext.configure(c), schema.metadata))
    assert differences == []


async def test_a_newer_database_is_left_alone(database: Database, new_database: NewDatabase) -> None:
    """Code that is older than the database refuses to start, with a reason."""
    await database.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    late = new_database()
    with pytest.raises(StorageUnavailable) as refused:
        await late.start()
    assert "9999" in refused.value.cause
    await late.close()


def add_entries(connection: Connection, subjects: Sequence[str]) -> None:
    for subject in subjects:
        if subject == "bad":
            raise BadRequest("no")
        add_entry(connection, subject)


async def test_items_that_wait_together_are_one_call(database: Database) -> None:
    """What many requests add at once goes to the database in few statements."""
    calls: list[int] = []

    def add_all(connection: Connection, subjects: Sequence[str]) -> None:
        calls.append(len(subjects))
        add_entries(connection, subjects)

    await asyncio.gather(*(database.add(add_all, str(number)) for number in range(200)))
    assert sum(calls) == 200
    assert len(calls) < 50
    assert await database.read(count) == 200


async def test_a_bad_item_spoils_no_other(database: Database) -> None:
    """An item that cannot be kept fails alone, also where it shared a call."""
    results = await asyncio.gather(
        *(database.add(add_entries, "bad" if number % 5 == 0 else "good") for number in range(50)),
        *(database.write(lambda c: add_entry(c, "beside")) for _ in range(10)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, BadRequest) for result in results) == 10
    assert await database.read(count) == 50


async def test_a_lone_failure_leaves_nothing(database: Database) -> None:
    """Also without company an operation that fails is undone, and the store stays healthy."""

    def fail(connection: Connection) -> None:
        add_entry(connection, "half done")
        raise BadRequest("no")

    commits = database.commits
    with pytest.raises(BadRequest):
        await database.write(fail)
    assert await database.read(count) == 0
    assert database.is_healthy
    assert database.commits == commits
