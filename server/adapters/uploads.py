"""Upload sessions: a manifest, then its two files, each hashed and measured while it is written.

A file comes whole, or in pieces that say where they begin. What arrived before a connection broke is kept: a piece
may begin anywhere in it, and only what is new is written. So a sender simply repeats what it has no reply to.
Sessions live in this process; a restart forgets them and clears their directory, and the uploader begins anew.
An uploader that goes away leaves a session that is swept after an hour.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server import faults
from server.errors import BadRequest, Busy, ClientGone, NotFound, StorageUnavailable, TooLarge
from server.ids import new_id
from server.wire.adapters import AdapterFile, AdapterManifest

MAX_SESSIONS = 16
IDLE_S = 3600.0
STALLED_S = 60.0
"""A sender that is silent for so long in the middle of a file has gone."""
WRITE_BYTES = 1024 * 1024
"""Written to disk in pieces of at least this size."""


@dataclass(slots=True)
class Part:
    """What has arrived of one file, under a temporary name until all has."""

    path: Path
    size_bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def append(self, data: bytes) -> None:
        """Blocking. A write that fails may leave some of it: `cut` it off."""
        with self.path.open("ab") as file:
            faults.point("upload.write")
            file.write(data)
        self.digest.update(data)
        self.size_bytes += len(data)

    def cut(self, size_bytes: int, digest: Any) -> None:
        """Back to an earlier size; blocking."""
        if self.path.exists():  # it does not, once the file is whole
            os.truncate(self.path, size_bytes)
        self.size_bytes, self.digest = size_bytes, digest

    def clear(self) -> None:
        """Begin anew."""
        self.path.unlink(missing_ok=True)
        self.size_bytes, self.digest = 0, hashlib.sha256()


@dataclass(slots=True)
class Upload:
    id: str
    manifest: AdapterManifest
    directory: Path
    touched_at: float
    received: set[str] = field(default_factory=set)
    """Files that are there whole."""
    parts: dict[str, Part] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        return [file.name for file in self.manifest.files if file.name not in self.received]

    def expected(self, name: str) -> AdapterFile | None:
        return next((file for file in self.manifest.files if file.name == name), None)


class Uploads:
    """The open sessions, under one directory that belongs to this object alone. Safe on one event loop."""

    def __init__(self, directory: Path, *, min_free_bytes: int) -> None:
        self._directory = directory
        self._min_free_bytes = min_free_bytes
        self._open: dict[str, Upload] = {}
        self._sweeping: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Forget what an earlier process left; blocking."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True, exist_ok=True)

    async def begin(self, manifest: AdapterManifest) -> Upload:
        """A new session; raises `BadRequest`, `Busy` or `StorageUnavailable`."""
        if len({file.name for file in manifest.files}) != len(manifest.files):
            raise BadRequest("files must name each of the two files once.", param="files")
        if len(self._open) >= MAX_SESSIONS:
            raise Busy("Too many uploads are open; commit one, or try again later.", code="too_many_uploads")
        self._require_room(sum(file.size_bytes for file in manifest.files))
        upload = Upload(new_id("upload"), manifest, Path(), time.monotonic())
        upload.directory = self._directory / upload.id
        try:
            upload.directory.mkdir(parents=True)
        except OSError as error:
            raise StorageUnavailable(f"uploads: {error}") from error
        self._open[upload.id] = upload
        asyncio.get_running_loop().call_later(IDLE_S, self._look_at, upload)
        return upload

    def get(self, upload_id: str) -> Upload:
        """An open session; raises `NotFound`."""
        upload = self._open.get(upload_id)
        if upload is None:
            raise NotFound("There is no such upload; begin with POST /v1/adapters.", code="upload_not_found")
        upload.touched_at = time.monotonic()
        return upload

    async def put(
        self,
        upload_id: str,
        name: str,
        chunks: AsyncIterator[bytes],
        sha256: str | None = None,
        *,
        offset: int | None = None,
    ) -> Upload:
        """Take one file, or with `offset` a piece of it that begins there. `sha256`: what the sender says of these
        very bytes, beside what the manifest says of the file.

        Raises `NotFound`, `TooLarge`, `BadRequest` (`upload_mismatch`), `ClientGone` or `StorageUnavailable`. The
        same can then be sent again.
        """
        upload = self.get(upload_id)
        expected = upload.expected(name)
        if expected is None:
            raise NotFound("The manifest names no such file.", code="upload_not_found")
        if offset is None and sha256 not in (None, expected.sha256):
            raise _mismatch("x-content-sha256 differs from the manifest's sha256.")
        part = upload.parts.setdefault(name, Part(upload.directory / f".{name}.part"))
        async with part.lock:
            self.get(upload_id)  # it may have been committed or dropped meanwhile
            try:
                await self._receive(upload, part, expected, chunks, sha256=sha256, offset=offset)
                self.get(upload_id)
                if part.size_bytes == expected.size_bytes and part.path.exists():
                    part.path.replace(upload.directory / name)
                    upload.received.add(name)
            except OSError as error:
                raise StorageUnavailable(f"uploads: {error}") from error
        return upload

    def take(self, upload_id: str) -> Upload:
        """Close a session whose files are all there; its directory is the caller's now."""
        upload = self.get(upload_id)
        if upload.missing:
            raise BadRequest(f"Not uploaded yet: {', '.join(upload.missing)}.", code="upload_incomplete")
        del self._open[upload_id]
        return upload

    async def discard(self, upload: Upload) -> None:
        self._open.pop(upload.id, None)
        await asyncio.to_thread(shutil.rmtree, upload.directory, ignore_errors=True)

    def left_over(self, written_before: float) -> list[str]:
        """What belongs to no open session and was last written before then; blocking."""
        entries = sorted(self._directory.iterdir()) if self._directory.is_dir() else []
        return [one.name for one in entries if one.name not in self._open and one.lstat().st_mtime < written_before]

    def _look_at(self, upload: Upload) -> None:
        """Sweep a session that nobody has touched for long; look again later at one that somebody has."""
        if upload.id not in self._open:
            return
        loop = asyncio.get_running_loop()
        left_s = upload.touched_at + IDLE_S - time.monotonic()
        if left_s > 0:
            loop.call_later(left_s, self._look_at, upload)
            return
        task = loop.create_task(self.discard(upload))
        self._sweeping.add(task)
        task.add_done_callback(self._sweeping.discard)

    def _require_room(self, size_bytes: int) -> None:
        try:
            free = shutil.disk_usage(self._directory).free
        except OSError as error:
            raise StorageUnavailable(f"uploads: {error}") from error
        if free - size_bytes < self._min_free_bytes:
            raise StorageUnavailable("uploads: not enough free disk")

    async def _receive(
        self,
        upload: Upload,
        part: Part,
        expected: AdapterFile,
        chunks: AsyncIterator[bytes],
        *,
        sha256: str | None,
        offset: int | None,
    ) -> None:
        """Append what is new of the bytes that come; the part is as before where they are wrong."""
        if offset is None:
            part.clear()
        begin = offset or 0
        if begin > part.size_bytes:
            raise _mismatch(f"{expected.name} has come as far as byte {part.size_bytes}; continue there.")
        before = part.size_bytes, part.digest.copy()
        piece = hashlib.sha256()

        def flush(data: bytes) -> None:
            new = data[max(0, part.size_bytes - arrived) :]
            piece.update(data)
            if new:
                part.append(new)

        arrived = begin
        pending = bytearray()
        try:
            async for chunk in _unless_stalled(chunks):
                pending += chunk
                if arrived + len(pending) > expected.size_bytes:
                    raise TooLarge(f"{expected.name} is larger than the manifest says.", code="upload_mismatch")
                if len(pending) >= WRITE_BYTES:
                    await asyncio.to_thread(flush, bytes(pending))
                    arrived += len(pending)
                    upload.touched_at = time.monotonic()
                    pending.clear()
            await asyncio.to_thread(flush, bytes(pending))
        except (OSError, TooLarge):
            part.cut(*before)
            raise
        if offset is not None and sha256 not in (None, piece.hexdigest()):
            part.cut(*before)
            raise _mismatch("The piece differs from its x-content-sha256; send it again.")
        if offset is None and part.size_bytes < expected.size_bytes:
            part.clear()
            raise _mismatch(f"{expected.name} is smaller than the manifest says.")
        if part.size_bytes == expected.size_bytes and part.digest.hexdigest() != expected.sha256:
            part.clear()
            raise _mismatch(f"{expected.name} differs from its sha256; send it again.")


def _mismatch(message: str) -> BadRequest:
    return BadRequest(message, code="upload_mismatch")


async def _unless_stalled(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same chunks; `ClientGone` when the next one does not come."""
    while True:
        try:
            async with asyncio.timeout(STALLED_S):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise ClientGone("The upload stalled; send the rest of the file again.") from None
        if chunk is None:
            return
        yield chunk
