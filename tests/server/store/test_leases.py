"""The right to train: one holder, a token that grows, and nothing lost while nobody else wants it."""

from __future__ import annotations

from server.store import leases
from server.store.database import Database


async def test_a_lease_is_one_holders_until_it_runs_out(database: Database) -> None:
    """Refused to others meanwhile; then whoever asks first has it, with a greater token."""

    def story(connection: object) -> list[int | None]:
        asked = [("one", 0.0), ("two", 59.0), ("two", 60.0), ("one", 61.0), ("two", 62.0)]
        taken = [leases.take_lease(connection, "a", owner, now, 60.0) for owner, now in asked]  # type: ignore[arg-type]
        return [lease.token if lease else None for lease in taken]

    assert await database.write(story) == [1, None, 2, None, 3]


async def test_a_sign_of_life_extends_a_lease_by_its_own_length(database: Database) -> None:
    """A holder that asked for an hour has it again each time, one that asked for a second has a second."""
    for alias, ttl_s in (("short", 1.0), ("long", 3600.0)):
        lease = await database.write(lambda c, a=alias, t=ttl_s: leases.take_lease(c, a, "one", 0.0, t))  # type: ignore[misc]
        assert lease is not None
        renewed = await database.write(lambda c, a=alias, t=lease.token: leases.renew_lease(c, a, t, 0.5))  # type: ignore[misc]
        assert renewed is not None and renewed.expires_at == 0.5 + ttl_s


async def test_a_lease_that_ran_out_is_lost_to_another_holder_alone(database: Database) -> None:
    """Its holder goes on where nobody took it; after that its token is worth nothing, however late."""
    await database.write(lambda c: leases.take_lease(c, "a", "one", 0.0, 10.0))
    late = await database.write(lambda c: leases.renew_lease(c, "a", 1, 500.0))
    assert late is not None and (late.token, late.expires_at) == (1, 510.0)
    await database.write(lambda c: leases.take_lease(c, "a", "two", 511.0, 10.0))
    assert await database.write(lambda c: leases.renew_lease(c, "a", 1, 512.0)) is None
    assert await database.write(lambda c: leases.renew_lease(c, "a", 1, 900.0)) is None
