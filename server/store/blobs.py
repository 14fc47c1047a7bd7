"""Images by content: one immutable file for each sha256, written once, durable before it is named.

Written to a temporary name, synced, renamed, and the directory synced: after a crash a blob is whole or absent.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

from server.errors import StorageUnavailable


def write_durably(path: Path, data: bytes) -> None:
    """Create `path` with `data`, all or nothing; the file and its name are on disk afterwards."""
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class BlobStore:
    """Files by sha256 under one directory, fanned out by the first two digits."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def _path(self, sha256: str) -> Path:
        return self._directory / sha256[:2] / sha256

    async def put(self, sha256: str, data: bytes) -> None:
        """Keep the bytes; raises `StorageUnavailable`. Known content costs one look."""
        path = self._path(sha256)
        if path.exists():
            return

        def write() -> None:
            path.parent.mkdir(exist_ok=True)
            write_durably(path, data)

        try:
            await asyncio.to_thread(write)
        except OSError as error:
            raise StorageUnavailable(f"media: {error}") from error

    async def get(self, sha256: str) -> bytes | None:
        """The bytes, verified; None when they are not there or no longer what they were."""
        try:
            data = await asyncio.to_thread(self._path(sha256).read_bytes)
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == sha256 else None
