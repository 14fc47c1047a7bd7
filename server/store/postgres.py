"""PostgreSQL behind the port, for any number of servers on one database.

Writing transactions of all servers are one after the other: each takes the same advisory lock first. So an operation
sees the world as SQLite's single writer does (no lost race, no deadlock), and the feed's numbers are given in the
order of the commits. Group commit pays for it: what waits for the lock goes into the next transaction together.
Reads are repeatable-read snapshots on connections of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from server import faults
from server.errors import StorageUnavailable
from server.store.database import (
    MAX_BATCH,
    Job,
    Operation,
    T,
    Undone,
    Writing,
    cause,
    fail_batch,
    run_batch,
)
from server.store.migrate import migrate

log = logging.getLogger(__name__)

WRITE_LOCK: Final = 0x706C756D
"""Key of the advisory lock (it spells "plum")."""
CONNECT_TIMEOUT_S: Final = 5.0
STATEMENT_TIMEOUT_S: Final = 30.0
RETRY_INTERVAL_S: Final = 0.5
"""Pause between two attempts to reach a database that failed."""
IDLE_TIMEOUT_MS: Final = 15_000
"""A server that stops in the middle of a transaction loses it, and the lock with it."""
BROKEN: Final = (DBAPIError, OSError, asyncio.TimeoutError)
"""What SQLAlchemy and asyncpg raise when the database cannot be reached or does not answer."""


def _engine(url: str, *, connections: int) -> AsyncEngine:
    settings = {
        "application_name": "plumbline",
        "synchronous_commit": "on",
        "idle_in_transaction_session_timeout": str(IDLE_TIMEOUT_MS),
        "timezone": "UTC",
    }
    return create_async_engine(
        url.replace("postgres://", "postgresql://", 1).replace("postgresql://", "postgresql+asyncpg://", 1),
        pool_size=connections,
        max_overflow=0,
        pool_timeout=STATEMENT_TIMEOUT_S,
        pool_pre_ping=True,
        hide_parameters=True,  # they are what users wrote, and errors are logged
        connect_args={
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": STATEMENT_TIMEOUT_S,
            "server_settings": settings,
        },
    )


class PostgresDatabase(Writing):
    """`Database` on one PostgreSQL database. Used on the event loop that calls `start`."""

    def __init__(self, url: str, *, read_connections: int, max_batch: int = MAX_BATCH) -> None:
        self._max_batch = max_batch
        self._writer_engine = _engine(url, connections=1)
        self._reader_engine = _engine(url, connections=read_connections)
        self._queue: asyncio.Queue[Job | None] = asyncio.Queue()
        self._writer: asyncio.Task[None] | None = None
        self._is_healthy = True
        self.commits = 0

    @property
    def is_healthy(self) -> bool:
        return self._is_healthy

    async def start(self) -> None:
        try:
            async with self._writer_engine.begin() as connection:
                await _take_lock(connection)
                await connection.run_sync(migrate)
                await faults.async_point("store.migrating")
        except BROKEN as error:
            raise StorageUnavailable(cause(error)) from error
        self._writer = asyncio.create_task(self._write_loop(), name="store-write")

    def _queue_up(self, job: Job) -> None:
        self._queue.put_nowait(job)

    async def read(self, operation: Operation[T]) -> T:
        if self._closed:
            raise StorageUnavailable("the store is closed")
        try:
            async with self._reader_engine.connect() as opened:
                connection = await opened.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                async with connection.begin():
                    return await connection.run_sync(operation)
        except BROKEN as error:
            raise StorageUnavailable(cause(error)) from error

    async def check(self) -> list[str]:
        """The server checks its own pages; here: that it answers, and that constraints were not switched off."""

        def read(connection: Connection) -> list[str]:
            rows = connection.execute(text("SELECT conname FROM pg_constraint WHERE NOT convalidated"))
            return [f"constraint {name} is not validated" for name in rows.scalars()]

        return await self.read(read)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._queue.put_nowait(None)
        if self._writer is not None:
            await self._writer
        await self._writer_engine.dispose()
        await self._reader_engine.dispose()

    async def _write_loop(self) -> None:
        is_last = False
        while not is_last:
            try:
                async with asyncio.timeout(None if self._is_healthy else RETRY_INTERVAL_S):
                    jobs = [await self._queue.get()]
            except TimeoutError:
                await self._commit([])
                continue
            while len(jobs) < self._max_batch and not self._queue.empty():
                jobs.append(self._queue.get_nowait())
            is_last = None in jobs
            batch = [job for job in jobs if job is not None]
            if batch:
                await self._commit(batch)
                for job in batch:
                    job.deliver()

    async def _commit(self, batch: list[Job]) -> None:
        try:
            async with self._writer_engine.begin() as connection:
                await _take_lock(connection)
                await connection.run_sync(run_batch, batch)
                await faults.async_point("store.before_commit")
                await faults.async_point("store.sync")
            self.commits += 1
            await faults.async_point("store.after_commit")
            self._is_healthy = True
        except Undone:
            self._is_healthy = True
        except Exception as error:
            fail_batch(batch, error)
            self._is_healthy = False
            log.error("the database did not confirm a commit: %s", cause(error))
            with contextlib.suppress(Exception):
                await self._writer_engine.dispose()  # what state the connection is in is not known


async def _take_lock(connection: AsyncConnection) -> None:
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITE_LOCK})
