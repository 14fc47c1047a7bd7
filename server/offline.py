"""What is done to the state of a stopped server."""

from __future__ import annotations

import time

from server.config import Config
from server.errors import StorageUnavailable
from server.installation import (
    build_registry,
    lock_state,
    model_digest,
    open_files,
    start_database,
)
from server.integrity import Problem, Progress, check_state, unreadable
from server.keys import make_key
from server.store.keys import KeyRecord
from server.store.opening import open_database


async def check(config: Config, progress: Progress) -> list[Problem]:
    """What is wrong with the state of a stopped server; raises `StartError` where another process holds it."""
    lock = lock_state(config.store.directory)
    database = open_database(config.store)
    try:
        await database.start()
        remote, blobs = await open_files(config)
        registry = build_registry(config, database, remote, base_digest=model_digest(config.engine.model))
        return await check_state(database, blobs, registry, now=time.time(), progress=progress)
    except StorageUnavailable as error:
        return [unreadable(error)]
    finally:
        await database.close()
        lock.close()


async def create_key(config: Config, role: str, tenant: str, name: str) -> str:
    """Add an API key to the state of a stopped server and return it; only its hash is kept."""
    lock = lock_state(config.store.directory)
    database = open_database(config.store)
    try:
        await start_database(database)
        wanted = KeyRecord("", tenant, role, name=name, created_by="command")
        key, _ = await database.write(lambda c: make_key(c, wanted, time.time()))
    finally:
        await database.close()
        lock.close()
    return key
