"""Files in a store that several servers share: any object store that fsspec knows by its URL.

An object appears whole or not at all, and is durable once `write` or `upload` has returned: that is what object stores
promise, so a URL of a local directory is refused. Credentials never stand in our configuration: each store's own ways
hold (for S3 `AWS_*` variables, `~/.aws`, the machine's role; for all of them fsspec's configuration files and
`FSSPEC_*` variables).

fsspec's calls block, so they run in threads of their own: a store that hangs holds up nothing else.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import fsspec
from fsspec.core import url_to_fs

from server.errors import StorageUnavailable

T = TypeVar("T")

CONCURRENCY: Final = 16
"""Calls to the store at once."""
TIMEOUT_S: Final = 60.0
"""A call that takes longer has failed."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One object. `modified_at` is UTC seconds since the epoch, by the store's clock."""

    name: str
    size_bytes: int
    modified_at: float


class RemoteFiles:
    """Objects by name (with `/` for folders) under one URL.

    Every method raises `StorageUnavailable` when the store cannot be reached, refuses, or takes too long.
    """

    def __init__(self, url: str) -> None:
        """Raises `ValueError`, in one line, when no such store can be used. Contacts nobody yet."""
        try:
            self._system, self._root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{_scheme(url)} needs a package that is not installed: {error}") from None
        if isinstance(self._system, fsspec.get_filesystem_class("file")):
            raise ValueError("a URL of an object store is wanted; files on this machine belong into store.directory")
        self._threads = ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="remote-files")

    async def look(self, name: str) -> RemoteFile | None:
        """What is there under this name, without its content."""
        info = await self._call(self._system.info, self._path(name))
        return None if info is None else _describe(name, info)

    async def read(self, name: str) -> bytes | None:
        data: bytes | None = await self._call(self._system.cat_file, self._path(name))
        return data

    async def write(self, name: str, data: bytes) -> None:
        """Create or replace."""
        await self._call(self._system.pipe_file, self._path(name), data, missing_fails=True)

    async def upload(self, path: Path, name: str) -> None:
        """Create or replace with the content of a local file."""
        await self._call(self._system.put_file, str(path), self._path(name), missing_fails=True)

    async def download(self, name: str, path: Path) -> bool:
        """Fill a local file; False when there is no such object."""
        return await self._call(self._fetch, self._path(name), str(path)) is not None

    async def delete(self, name: str) -> None:
        """What is not there is no failure."""
        await self._call(self._system.rm_file, self._path(name))

    async def list(self, folder: str) -> list[RemoteFile]:
        """All objects under a folder, at any depth."""
        found = await self._call(functools.partial(self._system.find, detail=True), self._path(folder)) or {}
        prefix = len(self._root) + 1
        return [_describe(path.lstrip("/")[prefix:], info) for path, info in found.items()]

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _fetch(self, name: str, path: str) -> bool:
        self._system.get_file(name, path)
        return True

    async def _call(self, function: Callable[..., T], *arguments: Any, missing_fails: bool = False) -> T | None:
        """Run in a thread; None when there is no such object, which a write only hears of a bucket."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        except FileNotFoundError as error:
            if missing_fails:
                raise _unavailable(error) from error
            return None
        except Exception as error:  # each store has errors of its own
            raise _unavailable(error) from error


def _unavailable(error: Exception) -> StorageUnavailable:
    return StorageUnavailable(f"remote files: {type(error).__name__}: {error}".splitlines()[0])


def _scheme(url: str) -> str:
    return url.partition(":")[0]


def _describe(name: str, info: dict[str, Any]) -> RemoteFile:
    return RemoteFile(name, info["size"] or 0, _modified_at(info))


def _modified_at(info: dict[str, Any]) -> float:
    """Each store has a name of its own for it. Without one it counts as new, so that no sweep takes it."""
    for key in ("LastModified", "last_modified", "mtime", "updated", "created"):
        value = info.get(key)
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return math.inf
