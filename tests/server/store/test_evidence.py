"""A canary's evidence as the store tells of it: whichever server wrote it, once each, in bounded pages."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from sqlalchemy import Connection, delete, event, text

from server.store import evidence, groups, schema, signals
from server.store.database import Database
from server.store.records import Answered, GroupState, Position, Rated, Routing, SignalKind, SignalRecord, TrialRecord
from tests.server.store.conftest import NewDatabase
from tests.server.store.rows import candidate, group

ROUTING = Routing("default", active="a1", canary="a2", canary_share=0.2, generation=5, updated_at=1000.0)
CANARY: dict[str, Any] = {"adapter": "a2", "is_canary": True, "generation": 5}
ACTIVE: dict[str, Any] = {"adapter": "a1", "is_canary": False, "generation": 5}


async def begin(database: Database, routing: Routing = ROUTING) -> TrialRecord:
    await database.write(lambda c: evidence.begin_trial(c, routing))
    trial = await database.read(lambda c: evidence.last_trial(c, routing.alias))
    assert trial is not None
    return trial


async def keep(database: Database, name: str, **changes: Any) -> None:
    await database.write(lambda c: groups.insert_group(c, group(name, **changes)))


async def rate(database: Database, group_id: str, rating: float, annotator: str = "user", **changes: Any) -> str:
    name = f"sig-{group_id}-{rating}"
    payload = {"candidate_id": f"{group_id}.0", "rating": rating}
    values = {"kind": SignalKind.RATING, "slot": "rating:0", "created_at": 7.0, "payload": payload, **changes}
    said = SignalRecord(id=name, group_id=group_id, annotator=annotator, **values)
    await database.write(lambda c: signals.insert_signal(c, said))
    return name


async def everything(database: Database, trial: TrialRecord, width: int = 1000) -> tuple[list[Answered], list[Rated]]:
    answers: list[Answered] = []
    ratings: list[Rated] = []
    after = trial.beginning
    for _ in itertools.count():
        page = await database.read(lambda c, after=after: evidence.read_after(c, trial, after, width))
        answers += page.answers
        ratings += page.ratings
        after = page.position
        if page.is_last:
            return answers, ratings
    raise AssertionError


async def test_each_side_is_told_with_what_judges_it(database: Database) -> None:
    """Blocked, failed, reward and duration, the user or where none is named the request."""
    trial = await begin(database)
    await keep(database, "one", user_hash="ann", reward=0.5, duration_s=2.0, **CANARY)
    blocked = (candidate("two", 0, adapter="a1"), candidate("two", 1, adapter="a1", is_blocked=True))
    await database.write(lambda c: groups.insert_group(c, group("two", **{"candidates": 0} | ACTIVE)))
    await database.write(lambda c: [groups.add_candidate(c, "two", one) for one in blocked])
    await keep(database, "three", user_hash=None, candidates=0, state=GroupState.FAILED, **ACTIVE)
    answers, _ = await everything(database, trial)
    assert answers == [
        Answered("ann", True, 1000.0, False, False, 0.5, 2.0),
        Answered("user", False, 1000.0, True, False, None, None),
        Answered("three", False, 1000.0, False, True, None, None),
    ]


async def test_what_takes_no_part_does_not_count(database: Database) -> None:
    """Earlier requests, earlier generations, other aliases, adapters asked for by id, what was abandoned or removed."""
    await keep(database, "before", **CANARY)
    trial = await begin(database)
    await keep(database, "late", **CANARY | {"generation": 4})
    await keep(database, "elsewhere", alias="other", **CANARY)
    await keep(database, "by-id", **ACTIVE | {"adapter": "a3"})
    await keep(database, "aborted", state=GroupState.ABORTED, **CANARY)
    await keep(database, "erased", state=GroupState.ERASED, **CANARY)
    await keep(database, "later", user_hash="ann", **CANARY | {"generation": 6})
    answers, _ = await everything(database, trial)
    assert [one.unit for one in answers] == ["ann"]


async def test_a_canary_for_which_base_answered_has_failed(database: Database) -> None:
    """And what was said about base's answer is not said about the canary."""
    trial = await begin(database)
    await keep(database, "one", **CANARY | {"adapter": "base"})
    await rate(database, "one", 1.0)
    answers, ratings = await everything(database, trial)
    assert [one.has_failed for one in answers] == [True]
    assert ratings == []


async def test_ratings_that_hold_count_for_the_side_that_was_rated(database: Database) -> None:
    """Not those that were replaced or set aside, nor what was said about other answers."""
    await keep(database, "before", **CANARY | {"generation": 4})
    trial = await begin(database)
    await keep(database, "one", user_hash="ann", **CANARY)
    await keep(database, "two", user_hash=None, **ACTIVE)
    await rate(database, "before", 1.0)
    await rate(database, "one", 1.0)
    await rate(database, "one", -1.0)
    await rate(database, "two", 0.5, annotator="a key")
    await rate(database, "two", 0.0, annotator="set aside", is_quarantined=True)
    await rate(database, "two", 0.1, annotator="a comment", kind=SignalKind.COMMENT)
    _, ratings = await everything(database, trial)
    assert ratings == [Rated("ann", True, 7.0, -1.0), Rated("two", False, 7.0, 0.5)]


async def test_what_another_policy_said_beside_is_nobodys_evidence(database: Database) -> None:
    """Neither that a rule blocked it, nor what it was rated; a refusal is the side's own."""
    trial = await begin(database)
    await database.write(lambda c: groups.insert_group(c, group("one", **{"candidates": 1} | CANARY)))
    beside = candidate("one", 1, adapter="base", is_blocked=True)
    refusal = candidate("one", 2, adapter="policy")
    await database.write(lambda c: [groups.add_candidate(c, "one", one) for one in (beside, refusal)])
    await rate(database, "one", -1.0, payload={"candidate_id": "one.1", "rating": -1.0}, slot="rating:1")
    await rate(database, "one", -0.5, payload={"candidate_id": "one.2", "rating": -0.5}, slot="rating:2")
    answers, ratings = await everything(database, trial)
    assert [one.is_blocked for one in answers] == [False]
    assert [one.rating for one in ratings] == [-0.5]


@pytest.mark.parametrize("width", [1, 2, 3, 1000])
async def test_pages_of_any_width_tell_everything_once(width: int, database: Database) -> None:
    """In the order in which it was committed, with what does not count in between."""
    trial = await begin(database)
    for number in range(7):
        await keep(database, f"g{number}", user_hash=f"u{number}", **(CANARY if number % 3 else ACTIVE))
        await keep(database, f"x{number}", alias="other", **CANARY)
        await rate(database, f"g{number}", 1.0)
    answers, ratings = await everything(database, trial, width)
    assert [one.unit for one in answers] == [one.unit for one in ratings] == [f"u{number}" for number in range(7)]


async def test_a_number_is_not_given_twice(database: Database) -> None:
    """What a person takes back leaves no number that a later signal could hide behind."""
    trial = await begin(database)
    await keep(database, "one", **CANARY)
    name = await rate(database, "one", 1.0)
    page = await database.read(lambda c: evidence.read_after(c, trial, trial.beginning))
    await database.write(lambda c: c.execute(delete(schema.signals).where(schema.signals.c.id == name)))
    await rate(database, "one", -1.0)
    page = await database.read(lambda c: evidence.read_after(c, trial, page.position))
    assert [one.rating for one in page.ratings] == [-1.0]


async def test_every_servers_requests_count(new_database: NewDatabase, database: Database) -> None:
    """Two servers on one PostgreSQL: each sees what the other wrote, in the same order."""
    other = new_database()
    if not type(other).__name__.startswith("Postgres"):
        pytest.skip("SQLite belongs to one server")
    await other.start()
    try:
        trial = await begin(database)
        for number in range(6):
            await keep((database, other)[number % 2], f"g{number}", user_hash=f"u{number}", **CANARY)
        seen = await everything(database, trial)
        assert [one.unit for one in seen[0]] == [f"u{number}" for number in range(6)]
        assert await everything(other, trial) == seen
    finally:
        await other.close()


async def test_a_trial_is_found_again(database: Database) -> None:
    """The newest of the alias, with where its evidence begins."""
    await begin(database)
    await keep(database, "one", **CANARY)
    again = await begin(database, Routing("default", "a1", canary="a2", canary_share=0.5, generation=6))
    assert (again.generation, again.share, again.beginning) == (6, 0.5, Position(1, 0))
    assert await database.read(lambda c: evidence.last_trial(c, "other")) is None


async def test_a_page_is_read_by_its_keys(database: Database) -> None:
    """However much is kept, no read goes through a whole table."""
    trial = await begin(database)

    def fill(connection: Connection) -> None:
        groups.insert_groups(connection, [group(f"g{number}", **CANARY) for number in range(3000)])
        for number in range(3000):
            rating = {"candidate_id": f"g{number}.0", "rating": 1.0}
            said = {"payload": rating, "kind": SignalKind.RATING, "slot": "", "created_at": 0.0}
            signals.insert_signal(connection, SignalRecord(f"s{number}", f"g{number}", annotator="ann", **said))
        if connection.dialect.name == "postgresql":
            connection.execute(text("ANALYZE"))

    def explain(connection: Connection) -> list[str]:
        asked: list[tuple[str, Any]] = []

        def note(_: object, __: object, statement: str, parameters: Any, *___: object) -> None:
            asked.append((statement, parameters))

        event.listen(connection, "before_cursor_execute", note)
        page = evidence.read_after(connection, trial, Position(1000, 1000), width=20)
        event.remove(connection, "before_cursor_execute", note)
        assert (len(page.answers), len(page.ratings)) == (20, 20)
        words = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
        return [
            f"{statement}: {row}"
            for statement, parameters in asked
            for row in connection.exec_driver_sql(f"{words} {statement}", parameters)
        ]

    await database.write(fill)
    plan = await database.read(explain)
    assert len(plan) >= 4
    assert not [line for line in plan if "SCAN" in line.partition(": ")[2] or "Seq Scan" in line]
