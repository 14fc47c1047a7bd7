"""Erasure: nothing of a person stays, everything of everybody else does, and whoever followed the feed hears of it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from server import images
from server.config import AliasConfig
from server.erasure import erase_user
from server.ids import new_id
from server.pipeline.recording import may_train
from server.preferences import derive
from server.store import adapters, audit, erasure, feed, groups, idempotency, quarantine, schema, signals
from server.store.blobs import LocalBlobs
from server.store.database import Database
from server.store.integrity import QUESTIONS
from server.store.records import (
    AdapterRecord,
    AdapterState,
    FeedKind,
    GroupRecord,
    GroupState,
    MediaRecord,
    SignalKind,
    SignalRecord,
)
from server.wire.operate import ErasureReply
from tests.server.store.rows import candidate, group

CAT = MediaRecord("a" * 64, "image/png", 3)
DOG = MediaRecord("b" * 64, "image/png", 3)
ALIAS = AliasConfig()


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "media")


async def store(database: Database, record: GroupRecord) -> None:
    await database.write(lambda c: groups.insert_group(c, record))


async def say(
    database: Database, group_id: str, annotator: str, kind: SignalKind = SignalKind.RATING, **payload: Any
) -> str:
    """A signal, told to the feed as a server tells it."""
    said = {"candidate_id": f"{group_id}.0", "rating": 1.0, **payload}
    one = SignalRecord(new_id("sig"), group_id, kind, f"{kind}:{group_id}.0", annotator, 0.0, said)

    def write(connection: Connection) -> None:
        signals.insert_signal(connection, one)
        feed.append(connection, "default", group_id, FeedKind.SIGNAL, 0.0)

    await database.write(write)
    return one.id


async def correct(database: Database, group_id: str, annotator: str, text: str) -> str:
    typed = candidate(group_id, 9, id=f"{group_id}.typed-{annotator}", adapter="human", text=text, is_shown=False)
    await database.write(lambda c: groups.add_candidate(c, group_id, typed))
    await say(database, group_id, annotator, SignalKind.CORRECTION, correction_id=typed.id)
    return typed.id


async def publish(database: Database, number: int, parent: str, sources: Sequence[str]) -> str:
    adapter = AdapterRecord(f"a{number}", number, "default", AdapterState.STAGED, parent, {}, 0.0, 0.0)

    def write(connection: Connection) -> None:
        adapters.insert_adapter(connection, adapter)
        adapters.add_sources(connection, adapter.id, sources)

    await database.write(write)
    return adapter.id


async def erase(database: Database, blobs: LocalBlobs, user: str = "ann") -> ErasureReply:
    return await erase_user(database, blobs, tenant="default", user_hash=user, actor="an operator", now=time.time())


async def dump(database: Database) -> str:
    """Everything that the database says."""

    def read(connection: Connection) -> str:
        rows = [
            dict(row) for table in schema.metadata.sorted_tables for row in connection.execute(select(table)).mappings()
        ]
        return json.dumps(rows, default=lambda value: value.hex() if isinstance(value, bytes) else repr(value))

    return await database.read(read)


async def kinds(database: Database, after: int = 0) -> list[tuple[str, str]]:
    entries = await database.read(lambda c: feed.read_after(c, "default", after, 1000))
    return [(entry.kind.value, entry.group_id) for entry in entries]


async def sound(database: Database) -> None:
    """What always holds of the rows."""
    for question, _ in QUESTIONS.values():
        assert await database.read(question) == []


async def test_nothing_of_the_erased_stays(database: Database, blobs: LocalBlobs) -> None:
    """Prompt, answers, tokens, images, words, signals and the user's own name: gone from every table but the audit."""
    secret = [{"role": "user", "parts": ["my secret", {"image": CAT.sha256, "mime": CAT.mime}]}]
    answers = tuple(candidate("cmpl-1", n, text="an echo of my secret", scores={"x": ["secret", 1.0]}) for n in (0, 1))
    stops = {"stop": ["secret"]}
    changes: dict[str, Any] = {"prompt": secret, "sampling": stops, "prompt_digest": "c" * 64}
    record = group("cmpl-1", user_hash="ann", media=(CAT,), regenerate_of="cmpl-0", candidates=0, **changes)
    await store(database, record)
    for one in answers:
        await database.write(lambda c, one=one: groups.add_candidate(c, "cmpl-1", one))
    await say(database, "cmpl-1", "ann", comment="my secret opinion")
    await say(database, "cmpl-1", "bob", comment="the secret of somebody else")
    await database.write(
        lambda c: idempotency.keep_reply(
            c, "default", "key", annotator="ann", request_hash="d" * 64, reply={"id": "sig-secret"}, now=0.0
        )
    )
    reply = await erase(database, blobs)
    assert (reply.groups, reply.signals, reply.images) == (1, 2, 1)
    kept = await dump(database)
    for word in ("secret", CAT.sha256, "c" * 64, "d" * 64, "cmpl-0"):
        assert word not in kept, word
    assert kept.count('"ann"') == 1, "the audit's own subject"
    stone = await database.read(lambda c: groups.get_group(c, "cmpl-1"))
    assert stone is not None
    assert (stone.state, stone.candidates, stone.media, stone.user_hash) == (GroupState.ERASED, (), (), None)
    assert (stone.tenant, stone.alias, stone.created_at, stone.adapter) == ("default", "default", 1000.0, "base")
    await sound(database)


async def test_what_is_of_others_stays(database: Database, blobs: LocalBlobs) -> None:
    """The user's word on others' groups goes with its history and what it brought; the others' words stay."""
    await store(database, group("cmpl-2", user_hash="bob"))
    kept = await say(database, "cmpl-2", "bob")
    typed = await correct(database, "cmpl-2", "bob", "bob's own words")
    for rating in (1.0, -1.0):
        await say(database, "cmpl-2", "ann", rating=rating)
    await correct(database, "cmpl-2", "ann", "ann's own words")
    before = await database.read(lambda c: feed.head(c, "default"))
    reply = await erase(database, blobs)
    assert (reply.groups, reply.signals) == (0, 3)
    left = await database.read(lambda c: c.execute(select(schema.signals.c.annotator)).scalars().all())
    assert set(left) == {"bob"}
    here = await database.read(lambda c: groups.get_group(c, "cmpl-2"))
    said = (await database.read(lambda c: signals.live_signals(c, ["cmpl-2"])))["cmpl-2"]
    assert here is not None
    assert here.state is GroupState.COMPLETED and here.candidate(typed) is not None
    assert [one.id for one in said if one.kind is SignalKind.RATING] == [kept]
    assert "ann's own words" not in await dump(database)
    assert await kinds(database, before) == [("erase", "cmpl-2")]
    assert {one.annotator for one in derive(here, said, ALIAS.signals).unpaired} == {"bob"}
    await sound(database)


async def test_the_same_name_elsewhere_is_somebody_else(database: Database, blobs: LocalBlobs) -> None:
    """A hash belongs to one tenant; another tenant's groups are left alone even where it were the same."""
    await store(database, group("cmpl-1", user_hash="ann", tenant="another"))
    assert (await erase(database, blobs)).groups == 0
    here = await database.read(lambda c: groups.get_group(c, "cmpl-1"))
    assert here is not None and here.state is GroupState.COMPLETED


async def test_an_image_that_another_user_shows_stays(database: Database, blobs: LocalBlobs) -> None:
    """Only the last group that shows an image takes it along, row and bytes."""
    for data in (CAT, DOG):
        await blobs.put(data.sha256, b"...")
        os.utime(blobs._path(data.sha256), (0, 0))
    await store(database, group("cmpl-1", user_hash="ann", media=(CAT, DOG)))
    await store(database, group("cmpl-2", user_hash="bob", media=(CAT,)))
    assert (await erase(database, blobs, "ann")).images == 1
    assert blobs._path(CAT.sha256).exists() and not blobs._path(DOG.sha256).exists()
    bobs = await database.read(lambda c: groups.get_group(c, "cmpl-2"))
    assert bobs is not None and bobs.media == (CAT,)
    assert (await erase(database, blobs, "bob")).images == 1
    assert not blobs._path(CAT.sha256).exists()


async def test_the_feed_tells_of_what_it_has_told_before(database: Database, blobs: LocalBlobs) -> None:
    """A learner that holds a group hears of its erasure; a group that never left, hold-out say, is not named now."""
    await store(database, group("cmpl-told", user_hash="ann"))
    await store(database, group("cmpl-holdout", user_hash="ann", is_holdout=True))
    await say(database, "cmpl-told", "bob")
    assert (await erase(database, blobs)).groups == 2
    assert await kinds(database) == [("signal", "cmpl-told"), ("erase", "cmpl-told")]
    stone = await database.read(lambda c: groups.get_group(c, "cmpl-told"))
    assert stone is not None and not may_train(stone, ALIAS)


async def test_erasing_is_all_or_nothing(database: Database, blobs: LocalBlobs) -> None:
    """Where the audit entry cannot be written, nothing was erased."""
    await store(database, group("cmpl-1", user_hash="ann", media=(CAT,)))
    before = await dump(database)

    def half(connection: Connection) -> None:
        erasure.erase(connection, ["cmpl-1"], "ann", 0.0)
        raise RuntimeError("the power fails")

    with pytest.raises(RuntimeError):
        await database.write(half)
    assert await dump(database) == before


async def test_erasing_twice_finds_nothing(database: Database, blobs: LocalBlobs) -> None:
    """The second time there is nobody; both times are in the audit trail."""
    await store(database, group("cmpl-1", user_hash="ann"))
    assert (await erase(database, blobs)).groups == 1
    assert (await erase(database, blobs)).groups == 0
    entries = await database.read(lambda c: audit.newest(c, 10, "ann"))
    assert [(one.action, one.detail["groups"]) for one in entries] == [("erase", 0), ("erase", 1)]


async def test_adapters_that_learned_are_named_with_all_that_grew_from_them(
    database: Database, blobs: LocalBlobs
) -> None:
    """By the groups and by the opinions that they were trained on; a sibling that learned from others is not."""
    await store(database, group("cmpl-1", user_hash="ann"))
    await store(database, group("cmpl-2", user_hash="bob"))
    await say(database, "cmpl-1", "bob")
    await say(database, "cmpl-2", "ann")
    await publish(database, 1, "base", ["cmpl-2", "bob"])
    await publish(database, 2, "a1", ["cmpl-1", "bob"])
    await publish(database, 3, "a2", ["cmpl-2", "bob"])
    await publish(database, 4, "base", ["cmpl-2", "bob", "ann"])
    await publish(database, 5, "base", [])
    await publish(database, 6, "a5", ["cmpl-2", "bob"])
    reply = await erase(database, blobs)
    assert reply.adapters == ["a2", "a3", "a4"]
    assert reply.undeclared == ["a5", "a6"]


async def test_signals_of_a_group_erased_meanwhile_are_gone_too(database: Database, blobs: LocalBlobs) -> None:
    """Erasure and what others say at the same time leave no signal on a tombstone that the feed would tell."""
    for number in range(20):
        await store(database, group(f"cmpl-{number}", user_hash="ann"))

    async def rate(number: int) -> None:
        group_id = f"cmpl-{number}"

        def write(connection: Connection) -> None:
            if groups.get_state(connection, group_id) is GroupState.COMPLETED:
                one = SignalRecord(new_id("sig"), group_id, SignalKind.COMMENT, "x", "bob", 0.0, {})
                signals.insert_signal(connection, one)

        await database.write(write)

    await asyncio.gather(*(rate(number) for number in range(20)), erase(database, blobs), return_exceptions=True)
    left = await database.read(lambda c: c.execute(select(schema.signals.c.id)).all())
    assert left == []


async def test_many_groups_go_in_one_transaction(database: Database, blobs: LocalBlobs) -> None:
    """However many: more than one statement's parameters, and the feed stays without a gap."""
    count = 1200
    records = [group(f"cmpl-{n:05d}", user_hash="ann", candidates=1, media=(CAT,)) for n in range(count)]

    def fill(connection: Connection) -> None:
        for record in records:
            groups.insert_group(connection, record)
        feed.append_all(connection, "default", [record.id for record in records], FeedKind.SIGNAL, 0.0)

    await database.write(fill)
    commits = database.commits
    reply = await erase(database, blobs)
    assert (reply.groups, reply.images, database.commits - commits) == (count, 1, 1)
    entries = await database.read(lambda c: feed.read_after(c, "default", 0, 10_000))
    assert [entry.seq for entry in entries] == list(range(1, 2 * count + 1))
    await sound(database)


# --- images -----------------------------------------------------------------------------------------------


async def test_a_sweep_removes_what_a_crash_left(database: Database, blobs: LocalBlobs) -> None:
    """Old bytes without a row go, and cut-off writes; what has a row stays, and what is new."""
    await store(database, group("cmpl-1", media=(CAT,)))
    new = MediaRecord("c" * 64, "image/png", 3)
    for one in (CAT, DOG, new):
        await blobs.put(one.sha256, b"...")
    part = blobs._path(DOG.sha256).with_name(f".{DOG.sha256}.0123")
    part.write_bytes(b"half")
    for path in (blobs._path(CAT.sha256), blobs._path(DOG.sha256), part):
        os.utime(path, (0, 0))
    await images.sweep(database, blobs, time.time())
    assert [blobs._path(one.sha256).exists() for one in (CAT, DOG, new)] == [True, False, True]
    assert not part.exists()


async def test_a_known_image_that_comes_again_outlives_a_sweep(database: Database, blobs: LocalBlobs) -> None:
    """Bytes that an erasure left are old and without a row; a request that shows them again keeps them."""
    await blobs.put(CAT.sha256, b"...")
    os.utime(blobs._path(CAT.sha256), (0, 0))
    await blobs.put(CAT.sha256, b"...")  # a request has its image; its row is not written yet
    await images.sweep(database, blobs, time.time())
    await images.remove(database, blobs, [CAT.sha256], time.time())
    assert blobs._path(CAT.sha256).exists()


# --- setting aside ----------------------------------------------------------------------------------------


async def test_signals_set_aside_teach_nothing_until_taken_back(database: Database) -> None:
    """By annotator, or one by one; the feed tells each time, of what changed only."""
    await store(database, group("cmpl-1"))
    await store(database, group("cmpl-2"))
    first, second = await say(database, "cmpl-1", "ann"), await say(database, "cmpl-2", "ann")
    await say(database, "cmpl-2", "bob")

    async def teaching() -> set[str]:
        said = await database.read(lambda c: signals.live_signals(c, ["cmpl-1", "cmpl-2"]))
        return {f"{one.annotator} {one.group_id}" for found in said.values() for one in found}

    everything = {"ann cmpl-1", "ann cmpl-2", "bob cmpl-2"}
    ways: list[tuple[Any, set[str], list[str]]] = [
        (lambda c, a: quarantine.of_annotator(c, "ann", aside=a, now=0.0), {"bob cmpl-2"}, ["cmpl-1", "cmpl-2"]),
        (
            lambda c, a: quarantine.of_signals(c, [second, "sig-unknown"], aside=a, now=0.0),
            {"ann cmpl-1", "bob cmpl-2"},
            ["cmpl-2"],
        ),
    ]
    for way, left, told in ways:
        for aside, expected in ((True, left), (False, everything)):
            before = await database.read(lambda c: feed.head(c, "default"))
            assert await database.write(lambda c, way=way, aside=aside: way(c, aside)) == len(told)
            assert await teaching() == expected
            assert await kinds(database, before) == [("quarantine", group_id) for group_id in told]
            assert await database.write(lambda c, way=way, aside=aside: way(c, aside)) == 0
    assert first != second


async def test_a_new_opinion_is_not_set_aside(database: Database) -> None:
    """Only what was said so far is; the same person's next word counts."""
    await store(database, group("cmpl-1"))
    await say(database, "cmpl-1", "ann")
    await database.write(lambda c: quarantine.of_annotator(c, "ann", aside=True, now=0.0))
    latest = await say(database, "cmpl-1", "ann", rating=-1.0)
    said = await database.read(lambda c: signals.live_signals(c, ["cmpl-1"]))
    assert [dataclasses.asdict(one)["id"] for one in said["cmpl-1"]] == [latest]
