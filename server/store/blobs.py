"""Images by content: one immutable file for each sha256, written once, durable before it is named.

`LocalBlobs` writes to a temporary name, syncs, renames, and syncs the directory: after a crash a blob is whole or
absent. `RemoteBlobs` keeps them in an object store, for several servers. `server.store.opening` chooses between them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import math
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar

from server import faults
from server.errors import StorageUnavailable
from server.store.remote import RemoteFiles

T = TypeVar("T")


def write_durably(path: Path, data: bytes) -> None:
    """Create `path` with `data`, all or nothing; the file and its name are on disk afterwards.

    Raises `OSError`; then the name may be there all the same, and may not last.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        faults.point("file.before_rename")
        temporary.replace(path)
        faults.point("file.after_rename")
        sync_directory(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    faults.point("file.sync_names")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class BlobStore(Protocol):
    """Bytes by their sha256. Safe for concurrent use; every method raises `StorageUnavailable`."""

    async def put(self, sha256: str, data: bytes) -> None:
        """Keep the bytes, durably. Known content costs one look, and is written again when it is older than an hour:
        so a sweep that spares what is younger than two hours takes no image whose row is being written.
        """
        ...

    async def get(self, sha256: str) -> bytes | None:
        """The bytes, verified; None when they are not there or no longer what they were."""
        ...

    async def delete(self, sha256: str, *, written_before: float = math.inf) -> None:
        """Forget the bytes, durably, unless they were written later than that. What is not there is no failure."""
        ...

    async def clear_parts(self, written_before: float) -> None:
        """Remove what is left of writes that a crash cut off before then."""
        ...

    def scan(self) -> AsyncIterator[tuple[str, float]]:
        """Every blob's sha256 and when it was last written (UTC seconds), in no order; for sweeps and checks.

        What is put or deleted meanwhile may be seen or not.
        """
        ...


WRITTEN_AGAIN_AFTER_S: Final = 3600.0
FOLDERS: Final = [f"{number:02x}" for number in range(256)]
"""Files are spread over folders by the first two digits."""


class LocalBlobs:
    """Files under one directory, made and synced here; blocking, for a moment."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._clock = clock
        self._synced: set[str] = set()
        """Folders whose names lasted when this process last found one there, and of which no sync failed since."""
        self._writing: set[str] = set()
        directory.mkdir(parents=True, exist_ok=True)
        for folder in FOLDERS:
            (directory / folder).mkdir(exist_ok=True)
        sync_directory(directory)
        sync_directory(directory.parent)

    def _path(self, sha256: str) -> Path:
        return self._directory / sha256[:2] / sha256

    async def put(self, sha256: str, data: bytes) -> None:
        def write() -> None:
            path = self._path(sha256)
            with contextlib.suppress(FileNotFoundError):
                known = path.stat()
                if _is_kept(data, known.st_size, self._clock() - known.st_mtime):
                    self._make_name_last(sha256)
                    return
            self._writing.add(sha256)
            try:
                write_durably(path, data)
            except OSError:
                self._synced.discard(sha256[:2])
                raise
            finally:
                self._writing.discard(sha256)

        await _call(write)

    def _make_name_last(self, sha256: str) -> None:
        """A name that is there may have been given a moment ago, by another thread, or by a process that died before it
        synced: then it is synced here. That is once for each folder, unless a sync fails.
        """
        folder = sha256[:2]
        if folder in self._synced and sha256 not in self._writing:
            return
        self._synced.add(folder)  # first: a write that fails meanwhile takes it back
        try:
            sync_directory(self._directory / folder)
        except OSError:
            self._synced.discard(folder)
            raise

    async def get(self, sha256: str) -> bytes | None:
        def read() -> bytes | None:
            try:
                return verified(sha256, self._path(sha256).read_bytes())
            except FileNotFoundError:
                return None

        return await _call(read)

    async def delete(self, sha256: str, *, written_before: float = math.inf) -> None:
        def remove() -> None:
            path = self._path(sha256)
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime <= written_before:
                    path.unlink()
                    sync_directory(path.parent)

        await _call(remove)

    async def clear_parts(self, written_before: float) -> None:
        def clear(folder: str) -> None:
            for path in (self._directory / folder).glob(".*"):
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime <= written_before:
                        path.unlink()

        for folder in FOLDERS:
            await _call(functools.partial(clear, folder))

    async def scan(self) -> AsyncIterator[tuple[str, float]]:
        for folder in FOLDERS:
            for entry in await _call(functools.partial(_read_folder, self._directory / folder)):
                yield entry


class RemoteBlobs:
    """Objects under `media/` of a shared store."""

    def __init__(self, files: RemoteFiles, *, clock: Callable[[], float] = time.time) -> None:
        self._files = files
        self._clock = clock

    def _name(self, sha256: str) -> str:
        return f"media/{sha256[0]}/{sha256}"

    async def put(self, sha256: str, data: bytes) -> None:
        known = await self._files.look(self._name(sha256))
        if known is None or not _is_kept(data, known.size_bytes, self._clock() - known.modified_at):
            await self._files.write(self._name(sha256), data)

    async def get(self, sha256: str) -> bytes | None:
        data = await self._files.read(self._name(sha256))
        return None if data is None else await asyncio.to_thread(verified, sha256, data)

    async def delete(self, sha256: str, *, written_before: float = math.inf) -> None:
        known = await self._files.look(self._name(sha256))
        if known is not None and known.modified_at <= written_before:
            await self._files.delete(self._name(sha256))

    async def clear_parts(self, written_before: float) -> None:
        """An object appears whole or not at all."""

    async def scan(self) -> AsyncIterator[tuple[str, float]]:
        for folder in "0123456789abcdef":  # what one listing holds in memory at once
            for file in await self._files.list(f"media/{folder}"):
                name = file.name.rpartition("/")[2]
                if is_sha256(name):
                    yield name, file.modified_at


def _read_folder(folder: Path) -> list[tuple[str, float]]:
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            if is_sha256(path.name):
                found.append((path.name, path.stat().st_mtime))
    return found


def _is_kept(data: bytes, size_bytes: int, age_s: float) -> bool:
    return size_bytes == len(data) and age_s <= WRITTEN_AGAIN_AFTER_S


def verified(sha256: str, data: bytes) -> bytes | None:
    return data if hashlib.sha256(data).hexdigest() == sha256 else None


def is_sha256(name: str) -> bool:
    return len(name) == 64 and set(name) <= set("0123456789abcdef")


async def _call(function: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(function)
    except OSError as error:
        raise StorageUnavailable(f"media: {error}") from error
