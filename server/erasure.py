"""A person's data, erased at their word: rows in one transaction, images after it.

The answer says which adapters learned from what was erased. It is exact, since each adapter's upload names the groups
and the annotators of its training, and whatever grew from such an adapter is named with it. An adapter that is still in
training is refused at its upload, should it have learned from what was erased meanwhile.
"""

from __future__ import annotations

import logging

from sqlalchemy import Connection

from server import images
from server.adapters import lineage
from server.errors import StorageUnavailable
from server.store import adapters, audit, erasure
from server.store.blobs import BlobStore
from server.store.database import Database
from server.store.records import IMPORTED, AdapterRecord
from server.wire.operate import ErasureReply

log = logging.getLogger(__name__)


async def erase_user(
    database: Database, blobs: BlobStore, *, tenant: str, user_hash: str, actor: str, now: float
) -> ErasureReply:
    """Erase all that is kept of a tenant's user; raises `StorageUnavailable`, and then nothing was erased."""

    def run(connection: Connection) -> tuple[ErasureReply, tuple[str, ...]]:
        group_ids = erasure.groups_of(connection, tenant, user_hash)
        imported = f"{IMPORTED}{user_hash}"
        learned = adapters.learned_from(connection, [*group_ids, user_hash, imported])
        removed = erasure.erase(connection, group_ids, user_hash, now) + erasure.erase(connection, [], imported, now)
        adapters.forget_source(connection, user_hash)
        adapters.forget_source(connection, imported)
        known = {one.id: one for one in adapters.list_adapters(connection)}
        tainted = _with_descendants(learned, known)
        reply = ErasureReply(
            groups=removed.groups,
            signals=removed.signals,
            images=len(removed.images),
            adapters=tainted,
            undeclared=[
                one
                for one in _with_descendants(adapters.without_sources(connection, removed.aliases), known)
                if one not in tainted
            ],
        )
        detail = {"tenant": tenant, **reply.model_dump()}
        audit.record(connection, actor=actor, action="erase", subject=user_hash, detail=detail, now=now)
        return reply, removed.images

    reply, orphans = await database.write(run)
    try:
        await images.remove(database, blobs, orphans, now)
    except StorageUnavailable as error:
        log.warning("images of an erased user stay until the next sweep: %s", error.cause)
    return reply


def _with_descendants(adapter_ids: set[str], known: dict[str, AdapterRecord]) -> list[str]:
    """These and all that grew from them, oldest first."""
    below = {descendant for one in adapter_ids for descendant in lineage.descendants(one, known)}
    return sorted(adapter_ids | below, key=lambda one: known[one].number)
