"""Adapter files in the shared store, so that what one server publishes every server can serve.

An engine reads adapters from its own server's disk. So the files are copied to the shared store before the row says
that the adapter exists, and a server that lacks a directory, or whose copy is damaged, fetches it: under a temporary
name, checked against the hashes in the row, synced, renamed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from server.adapters.files import FILES, is_published
from server.errors import StorageUnavailable
from server.store.blobs import sync_directory, sync_file
from server.store.records import AdapterRecord
from server.store.remote import RemoteFiles


class AdapterMirror:
    """Copies between `directory` and the folder `adapters/` of the store. Raises `StorageUnavailable`."""

    def __init__(self, files: RemoteFiles, directory: Path) -> None:
        self._files = files
        self._directory = directory
        self._fetching = asyncio.Lock()

    async def publish(self, adapter_id: str) -> None:
        """Copy a directory to the store; durable once this returns."""
        for name in FILES:
            await self._files.upload(self._directory / adapter_id / name, _name(adapter_id, name))

    async def fetch(self, record: AdapterRecord) -> bool:
        """Put the adapter's directory in place, whole; False when the store holds no whole copy."""
        target = self._directory / record.id
        async with self._fetching:
            if await asyncio.to_thread(is_published, target, record.manifest):
                return True  # whoever held the lock fetched it
            temporary = self._directory / f".{record.id}.{os.urandom(6).hex()}"
            try:
                await asyncio.to_thread(temporary.mkdir)
                for name in FILES:
                    if not await self._files.download(_name(record.id, name), temporary / name):
                        return False
                return await asyncio.to_thread(_put_in_place, temporary, target, record)
            except OSError as error:
                raise StorageUnavailable(f"adapters: {error}") from error
            finally:
                await asyncio.to_thread(shutil.rmtree, temporary, ignore_errors=True)

    async def remove(self, adapter_id: str) -> None:
        for name in FILES:
            await self._files.delete(_name(adapter_id, name))


def _name(adapter_id: str, name: str) -> str:
    return f"adapters/{adapter_id}/{name}"


def _put_in_place(temporary: Path, target: Path, record: AdapterRecord) -> bool:
    if not is_published(temporary, record.manifest):
        return False
    for name in FILES:
        sync_file(temporary / name)
    sync_directory(temporary)
    if target.exists():  # damaged; a directory can only be renamed to a name that is free
        damaged = temporary.with_name(f"{temporary.name}.damaged")
        target.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    temporary.rename(target)
    sync_directory(target.parent)
    return True
