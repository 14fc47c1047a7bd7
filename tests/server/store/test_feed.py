"""The feed: numbers without gap or repeat, in the order in which entries become visible."""

import asyncio
import functools

import pytest
from sqlalchemy import Connection

from server.errors import BadRequest
from server.store import feed, groups
from server.store.database import Database
from server.store.records import FeedKind
from tests.server.store.conftest import NewDatabase
from tests.server.store.rows import group


async def test_each_alias_counts_for_itself(database: Database) -> None:
    """1, 2, 3 … of the alias, whatever others do."""
    for name in ("a", "b"):
        await database.write(lambda c, name=name: groups.insert_group(c, group(f"cmpl-{name}", alias=name)))

    def tell(name: str) -> int:
        return database.write(lambda c: feed.append(c, name, f"cmpl-{name}", FeedKind.SIGNAL, 0.0))

    assert [await tell("a"), await tell("b"), await tell("a"), await tell("a")] == [1, 1, 2, 3]
    assert await database.read(lambda c: feed.head(c, "a")) == 3
    assert await database.read(lambda c: feed.head(c, "nobody")) == 0


async def test_what_fails_leaves_no_gap(database: Database) -> None:
    """A number taken by a transaction that is undone is given again."""
    await database.write(lambda c: groups.insert_group(c, group("cmpl-1")))

    def fail(connection: Connection) -> None:
        feed.append(connection, "default", "cmpl-1", FeedKind.SIGNAL, 0.0)
        raise BadRequest("no")

    def tell(connection: Connection) -> int:
        return feed.append(connection, "default", "cmpl-1", FeedKind.SIGNAL, 0.0)

    done = await asyncio.gather(
        *(database.write(fail if i % 3 == 0 else tell) for i in range(30)), return_exceptions=True
    )
    assert [number for number in done if isinstance(number, int)] == list(range(1, 21))


async def test_no_smaller_number_appears_later(new_database: NewDatabase) -> None:
    """A reader that follows two busy servers sees 1, 2, 3 … and never has to look back."""
    first, second = new_database(), new_database()
    if type(first).__name__ == "SqliteDatabase":
        second = first
    for database in {first, second}:
        await database.start()
    await first.write(lambda c: groups.insert_group(c, group("cmpl-1")))

    async def write(database: Database) -> None:
        for _ in range(60):
            await database.write(lambda c: feed.append(c, "default", "cmpl-1", FeedKind.SIGNAL, 0.0))

    seen: list[int] = []

    async def follow() -> None:
        while len(seen) < 240:
            after = seen[-1] if seen else 0
            entries = await first.read(functools.partial(feed.read_after, alias="default", after=after, limit=1000))
            seen.extend(entry.seq for entry in entries)

    await asyncio.wait_for(asyncio.gather(follow(), *(write(one) for one in (first, second, first, second))), 60)
    assert seen == list(range(1, 241))
    for database in {first, second}:
        await database.close()


@pytest.mark.parametrize("limit", [1, 7])
async def test_reading_goes_on_where_it_stopped(database: Database, limit: int) -> None:
    """Pages join without a seam."""
    await database.write(lambda c: groups.insert_group(c, group("cmpl-1")))
    for _ in range(20):
        await database.write(lambda c: feed.append(c, "default", "cmpl-1", FeedKind.SIGNAL, 0.0))
    seen: list[int] = []
    after = 0
    while page := await database.read(functools.partial(feed.read_after, alias="default", after=after, limit=limit)):
        seen += [entry.seq for entry in page]
        after = seen[-1]
        assert len(page) <= limit
    assert seen == list(range(1, 21))
