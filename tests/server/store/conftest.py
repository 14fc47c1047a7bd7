"""Both databases behind the port: every test that takes `database` or `new_database` runs on each."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from server.store.database import Database
from server.store.postgres import PostgresDatabase
from server.store.sqlite import SqliteDatabase

NewDatabase = Callable[[], Database]
"""Another connection to the test's own state, not started yet."""


@pytest.fixture(params=["sqlite", "postgres"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewDatabase]:
    if request.param == "sqlite":
        yield lambda: SqliteDatabase(tmp_path / "test.db", read_connections=2)
        return
    cluster = request.getfixturevalue("postgres")
    url = cluster.create()
    yield lambda: PostgresDatabase(url, read_connections=2)
    cluster.drop(url)


@pytest.fixture
async def database(new_database: NewDatabase) -> AsyncIterator[Database]:
    database = new_database()
    await database.start()
    yield database
    await database.close()
