"""`plumbline check`: looks at the whole state and says what is wrong with it and what to do.

Reads only, and reads everything: the database's files, the rows (`server.store.integrity`), every image by its hash,
every adapter by its hashes, and what lies beside them. It may run beside a serving server: what is written meanwhile
is no finding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from server.adapters.registry import AdapterRegistry
from server.errors import StorageUnavailable
from server.store import integrity
from server.store.blobs import BlobStore
from server.store.database import Database

GRACE_S: Final = 4 * 3600.0
"""An image is written before its row, and the hourly sweep takes what is older than two hours. Only after this time is
one without a row left over."""
READERS: Final = 8
"""Images read at once."""

BACKUP: Final = "restore the state from a backup"

Progress = Callable[[str, int, int], None]
"""Told (what is looked at, how many are done, of how many), again and again."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding: which check, what is wrong, what to do."""

    check: str
    what: str
    remedy: str


async def check_state(
    database: Database,
    blobs: BlobStore,
    registry: AdapterRegistry,
    *,
    now: float,
    progress: Progress = lambda what, done, total: None,
) -> list[Problem]:
    """Everything that is wrong; empty when nothing is. Raises nothing for a state that cannot be read: it says so."""
    found: list[Problem] = []
    steps = len(integrity.QUESTIONS) + 1
    progress("database", 0, steps)
    try:
        found += _problems("database", await database.check(), BACKUP)
        for number, (check, (question, remedy)) in enumerate(integrity.QUESTIONS.items(), 1):
            progress(check, number, steps)
            found += _problems(check, await database.read(question), remedy)
        progress("database", steps, steps)
        found += await _check_images(database, blobs, now, progress)
        found += await _check_adapters(registry, now, progress)
    except StorageUnavailable as error:
        found.append(unreadable(error))
    return found


def unreadable(error: StorageUnavailable) -> Problem:
    return Problem("database", f"it cannot be read: {error.cause}", BACKUP)


async def _check_images(database: Database, blobs: BlobStore, now: float, progress: Progress) -> list[Problem]:
    rows = await database.read(integrity.media_rows)
    dated = {sha256: at async for sha256, at in blobs.scan()}
    damaged: dict[str, str] = {}
    done = 0
    room = asyncio.Semaphore(READERS)

    async def check(sha256: str) -> None:
        nonlocal done
        async with room:
            if sha256 not in dated:
                damaged[sha256] = f"image {sha256} is missing"
            elif not await _is_whole(blobs, sha256):
                damaged[sha256] = f"image {sha256} is no longer what it was"
        done += 1
        progress("images", done, len(rows))

    await asyncio.gather(*(check(sha256) for sha256 in rows))
    known = await database.read(integrity.media_rows)  # what came or went meanwhile is no finding
    lost = [damaged[sha256] for sha256 in sorted(damaged) if sha256 in known]
    left = sorted(sha256 for sha256, at in dated.items() if sha256 not in known and now - at > GRACE_S)
    return [
        *_problems("images", lost, f"{BACKUP}, or put the file back; its groups cannot be trained on"),
        *_problems("images", [f"image {sha256} belongs to nothing" for sha256 in left], "retention will delete it"),
    ]


async def _is_whole(blobs: BlobStore, sha256: str) -> bool:
    try:
        return await blobs.get(sha256) is not None
    except StorageUnavailable:
        return False


async def _check_adapters(registry: AdapterRegistry, now: float, progress: Progress) -> list[Problem]:
    found = await registry.check(now, lambda done, total: progress("adapters", done, total))
    return [Problem("adapters", what, remedy) for what, remedy in found]


def _problems(check: str, found: Iterable[str], remedy: str) -> list[Problem]:
    return [Problem(check, what, remedy) for what in found]
