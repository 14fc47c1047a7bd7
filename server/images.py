"""Removing images that no group shows any more.

An image is written before its row, and one that is known and older than an hour is written again. So a file that is
older than `GRACE_S` and has no row belongs to nothing, whatever is being stored at this moment, on whichever server.
Younger ones stay until a later sweep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

from server.store import erasure
from server.store.blobs import BlobStore
from server.store.database import Database

GRACE_S: Final = 2 * 3600.0
PAGE: Final = 500
"""Images looked up at once."""
CONCURRENCY: Final = 16
"""Images removed at once."""


async def remove(database: Database, blobs: BlobStore, digests: Collection[str], now: float) -> None:
    """Remove these images where nothing shows them and they are old enough. May be repeated."""
    free = asyncio.Semaphore(CONCURRENCY)

    async def delete(sha256: str) -> None:
        async with free:
            await blobs.delete(sha256, written_before=now - GRACE_S)

    orphans = await database.read(lambda c: erasure.without_row(c, list(digests)))
    await asyncio.gather(*(delete(sha256) for sha256 in orphans))


async def sweep(database: Database, blobs: BlobStore, now: float) -> int:
    """Remove every image that belongs to nothing: what an erasure left, or a crash. How many there were of all."""
    old: list[str] = []
    seen = 0
    async for sha256, written_at in blobs.scan():
        seen += 1
        if written_at <= now - GRACE_S:
            old.append(sha256)
        if len(old) == PAGE:
            await remove(database, blobs, old, now)
            old = []
    await remove(database, blobs, old, now)
    await blobs.clear_parts(now - GRACE_S)
    return seen
