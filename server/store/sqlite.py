"""SQLite behind the port: one file, one writing connection, owned by this process alone.

WAL with `synchronous=FULL`; the writing connection lives in one thread, which also does the checkpoints (the
WAL-reset bug of SQLite before 3.51.3 needs two writing connections); reads use read-only connections.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from server.errors import StorageUnavailable
from server.store.database import MAX_BATCH, Job, Operation, T, cause, fail_batch, run_batch
from server.store.migrate import migrate

BUSY_TIMEOUT_S = 5.0


def _engine(path: Path, *, read_only: bool) -> Engine:
    address = f"file:{path}?mode=ro" if read_only else f"file:{path}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            address, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S
        )
        connection.execute("PRAGMA foreign_keys=ON")
        if not read_only:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool, pool_size=16, max_overflow=0)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


class SqliteDatabase:
    """`Database` on one SQLite file."""

    def __init__(self, path: Path, *, read_connections: int) -> None:
        self._writer_engine = _engine(path, read_only=False)
        self._reader_engine = _engine(path, read_only=True)
        self._readers = ThreadPoolExecutor(read_connections, thread_name_prefix="store-read")
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_loop, name="store-write", daemon=True)
        self._closed = False
        self.commits = 0

    async def start(self) -> None:
        await asyncio.to_thread(self._migrate)
        self._writer.start()

    def _migrate(self) -> None:
        try:
            with self._writer_engine.begin() as connection:
                migrate(connection)
        except DBAPIError as error:
            raise StorageUnavailable(cause(error)) from error

    async def write(self, operation: Operation[T]) -> T:
        if self._closed:
            raise StorageUnavailable("the store is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put(Job(operation, future))
        return await future

    async def read(self, operation: Operation[T]) -> T:
        def run() -> T:
            try:
                with self._reader_engine.begin() as connection:
                    return operation(connection)
            except DBAPIError as error:
                raise StorageUnavailable(cause(error)) from error

        if self._closed:
            raise StorageUnavailable("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def check(self) -> list[str]:
        def read(connection: Connection) -> list[str]:
            rows = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
            orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
            found = [f"file: {row}" for row in rows if row != "ok"]
            return found + [
                f"a row of {table} refers to a row of {parent} that is not there" for table, _, parent, _ in orphans
            ]

        return await self.read(read)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        if self._writer.is_alive():
            await asyncio.to_thread(self._writer.join)
        self._readers.shutdown(wait=True)
        self._writer_engine.dispose()
        self._reader_engine.dispose()

    def _write_loop(self) -> None:
        while (job := self._queue.get()) is not None:
            batch = [job]
            last = False
            while len(batch) < MAX_BATCH and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    last = True
                    break
                batch.append(following)
            self._commit(batch)
            for loop in {job.future.get_loop() for job in batch}:
                mine = [job for job in batch if job.future.get_loop() is loop]
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_deliver, mine)
            if last:
                return

    def _commit(self, batch: list[Job]) -> None:
        try:
            with self._writer_engine.begin() as connection:
                run_batch(connection, batch)
            self.commits += 1
        except Exception as error:
            fail_batch(batch, error)


def _deliver(jobs: list[Job]) -> None:
    for job in jobs:
        job.deliver()
