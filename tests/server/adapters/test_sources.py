"""What an adapter learned from is known from its upload on, and what was erased meanwhile keeps it out."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, select

from server.errors import BadRequest
from server.store import adapters, erasure, feed, schema, signals
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
        return feed.append(connection, ALIAS, group.id, FeedKind.SIGNAL, 0.0)

    return group.id, await world.database.write(write)


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


async def test_quarantining_an_adapter_sets_its_signals_aside(world: World) -> None:
    """In the same move, whether it is routed or not; what was said of other answers counts on."""
    active, waiting = await world.active(), await world.gated()
    of_active, _ = await told(world, "ann", adapter=active)
    of_waiting, _ = await told(world, "bob", adapter=waiting)
    of_base, _ = await told(world, "cid")
    ids = [of_active, of_waiting, of_base]

    async def counting() -> list[str]:
        said = await world.database.read(lambda c: signals.live_signals(c, ids))
        return [group_id for group_id in ids if said[group_id]]

    assert await counting() == ids
    await world.router.quarantine(waiting, OPERATOR)
    assert await counting() == [of_active, of_base]
    await world.router.quarantine(active, OPERATOR)
    assert await counting() == [of_base]
    assert set((await world.states()).values()) == {AdapterState.QUARANTINED}
    entries = await world.database.read(lambda c: feed.read_after(c, ALIAS, 3, 10))
    assert [(one.kind, one.group_id) for one in entries] == [
        (FeedKind.QUARANTINE, of_waiting),
        (FeedKind.QUARANTINE, of_active),
    ]
