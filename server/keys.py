"""API keys: made, shown once, recognised, revoked.

A key is `pk-` and 256 random bits; only its hash is kept. A server remembers for `KEY_MEMORY_S` the keys that it has
looked up, so a request costs no read of the database: a key that is revoked stops at once on the server that was told,
and within that time on every other one. Keys that are not known are not remembered.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection

from server.errors import BadRequest, NotFound, StorageUnavailable
from server.ids import new_id
from server.store import audit, keys
from server.store.database import Database
from server.store.keys import KeyRecord

log = logging.getLogger(__name__)

PREFIX: Final = "pk-"
MAX_KEY_CHARS: Final = 256
KEY_MEMORY_S: Final = 5.0
"""How long a key that was looked up is believed to stand as it stood."""
MAX_REMEMBERED: Final = 4096
USE_NOTED_EVERY_S: Final = 3600.0
OPERATOR: Final = "operator"


def hash_key(key: str) -> str:
    """Keys carry 256 random bits, so a plain hash keeps them; looking the hash up leaks no prefix of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def make_key(connection: Connection, wanted: KeyRecord, now: float) -> tuple[str, KeyRecord]:
    """Add a key with a new id and secret; the secret is returned this once."""
    key = f"{PREFIX}{secrets.token_urlsafe(32)}"
    record = dataclasses.replace(wanted, id=new_id("key"), created_at=now)
    keys.add_key(connection, record, hash_key(key), now)
    detail = {"name": record.name, "tenant": record.tenant, "role": record.role, "expires_at": record.expires_at}
    audit.record(connection, actor=record.created_by, action="create_key", subject=record.id, detail=detail, now=now)
    return key, record


class KeyRing:
    """The installation's keys, as this server knows them. For one event loop.

    Every method raises `StorageUnavailable` where the database cannot be asked. `clock` is UTC seconds since the epoch,
    `monotonic` seconds that never go back.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._monotonic = monotonic
        self._remembered: OrderedDict[str, tuple[KeyRecord, float]] = OrderedDict()  # by hash, with when it was read
        self._revocations = 0
        self._notes: set[asyncio.Task[None]] = set()

    async def find(self, key: str) -> KeyRecord | None:
        """The key if it is in force."""
        if len(key) > MAX_KEY_CHARS:
            return None
        key_hash = hash_key(key)
        known = self._remembered.get(key_hash)
        if known is not None and self._monotonic() - known[1] < KEY_MEMORY_S:
            record = known[0]
        else:
            found = await self._look_up(key_hash)
            if found is None:
                return None
            record = found
        return record if record.is_in_force(self._clock()) else None

    async def create(self, wanted: KeyRecord) -> tuple[str, KeyRecord]:
        """A new key like `wanted`, whose id does not count, and its secret, which nobody is shown again."""
        return await self._database.write(lambda c: make_key(c, wanted, self._clock()))

    async def list(self, after: str | None, limit: int) -> list[KeyRecord]:
        """Every key, revoked ones too, oldest first."""
        return await self._database.read(lambda c: keys.list_keys(c, after, limit))

    async def revoke(self, key_id: str, *, actor: str, force: bool) -> KeyRecord:
        """The key stops working. Revoking it again changes nothing.

        Raises `NotFound`, or `BadRequest` where no operator's key would be left and `force` is off.
        """
        now = self._clock()

        def write(connection: Connection) -> KeyRecord:
            record = keys.get_key(connection, key_id)
            if record is None:
                raise NotFound("There is no such key.", param="key", code="key_not_found")
            if record.revoked_at is not None:
                return record
            is_last = record.is_in_force(now) and keys.count_in_force(connection, OPERATOR, now) == 1
            if record.role == OPERATOR and is_last and not force:
                raise BadRequest(
                    "This is the last operator's key: without it nobody can make another one while the server runs. "
                    "Create one first, or revoke this one with force.",
                    param="force",
                    code="last_operator_key",
                )
            keys.revoke_key(connection, key_id, now)
            detail = {"name": record.name, "tenant": record.tenant, "role": record.role, "force": force}
            audit.record(connection, actor=actor, action="revoke_key", subject=key_id, detail=detail, now=now)
            return dataclasses.replace(record, revoked_at=now)

        record = await self._database.write(write)
        self._revocations += 1
        for key_hash in [name for name, (one, _) in self._remembered.items() if one.id == key_id]:
            del self._remembered[key_hash]
        return record

    async def stop(self) -> None:
        """Finish noting which keys were used."""
        await asyncio.gather(*self._notes)

    async def _look_up(self, key_hash: str) -> KeyRecord | None:
        read_at, revocations = self._monotonic(), self._revocations
        record = await self._database.read(lambda c: keys.find_key(c, key_hash))
        if record is None:
            self._remembered.pop(key_hash, None)
            return None
        if revocations == self._revocations:  # else this read may be older than a revocation here
            self._remembered[key_hash] = (record, read_at)
            self._remembered.move_to_end(key_hash)
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        self._note_use(record)
        return record

    def _note_use(self, record: KeyRecord) -> None:
        """At most once an hour and key, beside the request."""
        now = self._clock()
        if record.last_used_at is not None and now - record.last_used_at < USE_NOTED_EVERY_S:
            return
        noting = asyncio.create_task(self._write_use(record.id, now))
        self._notes.add(noting)
        noting.add_done_callback(self._notes.discard)

    async def _write_use(self, key_id: str, now: float) -> None:
        try:
            await self._database.write(lambda c: keys.note_use(c, key_id, now))
        except StorageUnavailable as error:
            log.warning("the use of a key was not noted: %s", error.cause)
