"""Upload sessions: a manifest, then its two files as streams, each hashed and measured while it is written.

Sessions live in this process; a restart forgets them and clears their directory, and the uploader begins anew.
An uploader that goes away leaves a session that makes room after an hour.
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

from server.errors import BadRequest, Busy, NotFound, StorageUnavailable, TooLarge
from server.ids import new_id
from server.wire.adapters import AdapterFile, AdapterManifest

MAX_SESSIONS = 16
IDLE_S = 3600.0
WRITE_BYTES = 1024 * 1024
"""Written to disk in pieces of at least this size."""


@dataclass(slots=True)
class Upload:
    id: str
    manifest: AdapterManifest
    directory: Path
    touched_at: float
    received: set[str] = field(default_factory=set)

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

    def start(self) -> None:
        """Forget what an earlier process left; blocking."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True, exist_ok=True)

    async def begin(self, manifest: AdapterManifest) -> Upload:
        """A new session; raises `BadRequest`, `Busy` or `StorageUnavailable`."""
        if len({file.name for file in manifest.files}) != len(manifest.files):
            raise BadRequest("files must name each of the two files once.", param="files")
        await self._expire()
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
        return upload

    def get(self, upload_id: str) -> Upload:
        """An open session; raises `NotFound`."""
        upload = self._open.get(upload_id)
        if upload is None:
            raise NotFound("There is no such upload; begin with POST /v1/adapters.", code="upload_not_found")
        upload.touched_at = time.monotonic()
        return upload

    async def put(self, upload_id: str, name: str, chunks: AsyncIterator[bytes], sha256: str | None = None) -> Upload:
        """Take one file. `sha256`: what the sender says of this transfer, beside what the manifest says.

        Raises `NotFound`, `TooLarge`, `BadRequest` (`upload_mismatch`) or `StorageUnavailable`; the file can then
        be sent again.
        """
        upload = self.get(upload_id)
        expected = upload.expected(name)
        if expected is None:
            raise NotFound("The manifest names no such file.", code="upload_not_found")
        if sha256 is not None and sha256 != expected.sha256:
            raise BadRequest("x-content-sha256 differs from the manifest's sha256.", code="upload_mismatch")
        part = upload.directory / f".{name}.{os.urandom(6).hex()}"
        try:
            await self._receive(part, expected, chunks)
            self.get(upload_id)  # it may have been committed or dropped meanwhile
            part.replace(upload.directory / name)
        except OSError as error:
            raise StorageUnavailable(f"uploads: {error}") from error
        finally:
            part.unlink(missing_ok=True)
        upload.received.add(name)
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

    async def _expire(self) -> None:
        limit = time.monotonic() - IDLE_S
        for upload in [one for one in self._open.values() if one.touched_at < limit]:
            await self.discard(upload)

    def _require_room(self, size_bytes: int) -> None:
        try:
            free = shutil.disk_usage(self._directory).free
        except OSError as error:
            raise StorageUnavailable(f"uploads: {error}") from error
        if free - size_bytes < self._min_free_bytes:
            raise StorageUnavailable("uploads: not enough free disk")

    async def _receive(self, part: Path, expected: AdapterFile, chunks: AsyncIterator[bytes]) -> None:
        digest = hashlib.sha256()
        size = 0
        pending = bytearray()

        def flush(data: bytes) -> None:
            digest.update(data)
            file.write(data)

        with part.open("wb") as file:
            async for chunk in chunks:
                size += len(chunk)
                if size > expected.size_bytes:
                    raise TooLarge(f"{expected.name} is larger than the manifest says.", code="upload_mismatch")
                pending += chunk
                if len(pending) >= WRITE_BYTES:
                    await asyncio.to_thread(flush, bytes(pending))
                    pending.clear()
            await asyncio.to_thread(flush, bytes(pending))
        if size != expected.size_bytes:
            raise BadRequest(f"{expected.name} is smaller than the manifest says.", code="upload_mismatch")
        if digest.hexdigest() != expected.sha256:
            raise BadRequest(f"{expected.name} differs from its sha256; send it again.", code="upload_mismatch")
