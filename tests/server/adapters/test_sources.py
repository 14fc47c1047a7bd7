"""What an adapter learned from is known from its upload on, and what was erased meanwhile keeps it out."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, select

from server.errors import BadRequest
from server.store import adapters, audit, erasure, feed, schema, signals
from server.store.records import AdapterState, FeedKind, SignalKind, SignalRecord
from tests.server.adapters.support import ALIAS, OPERATOR, World


async def sources(world: World) -> set[tuple[str, str]]:
    rows = await world.database.read(lambda c: c.execute(select(schema.adapter_sources)).all())
    return {(row.adapter, row.source) for row in rows}


async def told(world: World, annotator: str = "ann", **changes: object) -> tuple[str, int]:
    """A group about which somebody spoke, and the feed's number for it."""
    group = await world.store_group(**changes)
    said = SignalRecord(f"sig-{group.id}", group.id, SignalKind.RATING, "r", annotator, world.clock(), {"rating": 1.0})

    def write(connection: Connection) -> int:
        signals.insert_signal(connection, said)
        return feed.append(connection, ALIAS, group.id, FeedKind.SIGNAL, said.created_at)

    return group.id, await world.database.write(write)


async def speak(world: World, annotator: str, group_id: str) -> int:
    """Somebody else's word on a group; the feed's number for it."""
    now = world.clock()
    said = SignalRecord(f"sig-{annotator}-{group_id}", group_id, SignalKind.RATING, "r", annotator, now, {"rating": -1})

    def write(connection: Connection) -> int:
        signals.insert_signal(connection, said)
        return feed.append(connection, ALIAS, group_id, FeedKind.SIGNAL, now)

    return await world.database.write(write)


async def test_an_upload_names_its_sources(world: World) -> None:
    """They are kept as rows beside the adapter, not in its manifest, and go with an ephemeral one."""
    adapter = await world.upload(groups=["cmpl-1", "cmpl-2"], annotators=["ann", "key:key-1"])
    assert await sources(world) == {(adapter.id, one) for one in ("cmpl-1", "cmpl-2", "ann", "key:key-1")}
    assert {"groups", "annotators"}.isdisjoint(adapter.manifest)
    brief = await world.upload(groups=["cmpl-1"], ephemeral=True)
    assert await world.database.read(lambda c: adapters.learned_from(c, ["cmpl-1"])) == {adapter.id, brief.id}
    await world.registry.delete_ephemeral(brief.id, actor="a learner")
    assert await world.database.read(lambda c: adapters.learned_from(c, ["cmpl-1", "unknown"])) == {adapter.id}


async def test_what_learned_from_the_erased_is_not_published(world: World) -> None:
    """A round that used a user's data, erased while it ran, is refused; one that began after it is not."""
    theirs, seq = await told(world, user_hash="ann")
    another, last = await told(world)
    await world.database.write(lambda c: erasure.erase(c, [theirs], "ann", 0.0))
    head = await world.database.read(lambda c: feed.head(c, ALIAS))
    assert (seq, last, head) == (1, 2, 4), "the group, and the other group on which the user spoke"
    for named in (theirs, another):
        with pytest.raises(BadRequest) as refused:
            await world.upload(groups=[named], feed_upto=last)
        assert refused.value.code == "adapter_rejected" and "erased" in refused.value.public
    assert not await world.states()
    assert await world.upload(groups=[another], feed_upto=head)
    assert await world.upload(groups=["cmpl-unrelated"], feed_upto=last)


async def test_quarantine_sets_aside_what_is_behind_an_adapter(world: World) -> None:
    """What it learned and its sound ancestors did not: in the same move, whether it is routed or not."""
    ann, _ = await told(world, "ann")
    shared, upto = await told(world, "ann")
    sound = await world.active(groups=[ann, shared], annotators=["ann"], feed_upto=upto)
    bob, _ = await told(world, "bob")
    eve = await speak(world, "eve", shared)
    own = {"groups": [ann, shared, bob], "annotators": ["ann", "bob", "eve"], "feed_upto": eve}
    bad = await world.active(parent=sound, **own)
    await speak(world, "eve", bob)  # after the adapter
    about_it, _ = await told(world, "cid", adapter=bad)  # of its answers: that it is bad is worth learning
    ids = [ann, shared, bob, about_it]

    async def counting() -> set[tuple[str, str]]:
        said = await world.database.read(lambda c: signals.live_signals(c, ids))
        return {(one.annotator, group_id) for group_id in ids for one in said[group_id]}

    everything = await counting()
    head = await world.database.read(lambda c: feed.head(c, ALIAS))
    routing, changed = await world.router.quarantine(bad, OPERATOR)
    assert (routing.active, changed) == (sound, 2)
    assert everything - await counting() == {("bob", bob), ("eve", shared)}
    entries = await world.database.read(lambda c: feed.read_after(c, ALIAS, head, 10))
    assert sorted((one.kind, one.group_id) for one in entries) == sorted(
        [(FeedKind.QUARANTINE, bob), (FeedKind.QUARANTINE, shared)]
    )
    (entry,) = [one for one in await world.database.read(lambda c: audit.newest(c, 5)) if one.action == "quarantine"]
    assert entry.detail["signals_set_aside"] == 2
    assert (await world.router.quarantine(sound, OPERATOR))[1] == 2, "ann's, who taught no sound adapter"
    assert await world.router.quarantine(await world.gated(parent=sound), OPERATOR) == (world.router.current(ALIAS), 0)


async def test_what_a_bad_ancestor_learned_is_behind_its_child_too(world: World) -> None:
    """Only sound ancestors clear a signal."""
    ann, upto = await told(world, "ann")
    first = await world.active(groups=[ann], annotators=["ann"], feed_upto=upto)
    child = await world.active(parent=first, groups=[ann], annotators=["ann"], feed_upto=upto)
    await world.router.rollback(ALIAS, OPERATOR)
    await world.router.rollback(ALIAS, OPERATOR)
    assert set((await world.states()).values()) == {AdapterState.ROLLED_BACK}
    assert (await world.router.quarantine(child, OPERATOR))[1] == 1
