"""The database behind the store: a port, and SQLite's adapter.

SQLite: WAL with `synchronous=FULL`, one writing connection in one thread (which also does the checkpoints: the
WAL-reset bug of SQLite before 3.51.3 needs two), read-only connections in a small pool. Writes that wait
together are committed together, each in a savepoint of its own, so one sync serves them all and one failure
spoils no other. A write that has returned is on disk.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.pool import QueuePool

from server.errors import StorageUnavailable

T = TypeVar("T")
Operation = Callable[[Connection], T]

MAX_BATCH = 256
"""Most operations in one commit: bounds how long the first of them waits."""


class Database(Protocol):
    """Transactions over the schema. Safe for concurrent use on one event loop.

    Both calls raise what the operation raises, or `StorageUnavailable` when the database itself fails; then
    nothing of the operation is kept.
    """

    async def write(self, operation: Operation[T]) -> T:
        """Run in a transaction of all-or-nothing; durable once this returns."""
        ...

    async def read(self, operation: Operation[T]) -> T:
        """Run on a consistent snapshot that holds every write that had returned."""
        ...

    async def check(self) -> list[str]:
        """What is wrong with the database file, in words; empty when nothing is."""
        ...

    async def close(self) -> None:
        """Finish what was queued, then release everything; idempotent."""
        ...


def _sqlite_engine(path: Path, *, read_only: bool) -> Engine:
    address = f"file:{path}?mode=ro" if read_only else f"file:{path}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False, timeout=5.0)
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


class _Job:
    """One queued write and where its result goes."""

    __slots__ = ("error", "future", "loop", "operation", "value")

    def __init__(self, operation: Operation[Any], future: asyncio.Future[Any]) -> None:
        self.operation = operation
        self.future = future
        self.loop = future.get_loop()
        self.value: Any = None
        self.error: BaseException | None = None

    def deliver(self) -> None:
        if self.future.cancelled():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)


def _deliver(jobs: list[_Job]) -> None:
    for job in jobs:
        job.deliver()


class SqliteDatabase:
    """`Database` on one SQLite file, owned by this process alone."""

    def __init__(self, path: Path, *, read_connections: int) -> None:
        self._path = path
        self._writer_engine = _sqlite_engine(path, read_only=False)
        self._reader_engine = _sqlite_engine(path, read_only=True)
        self._readers = ThreadPoolExecutor(read_connections, thread_name_prefix="store-read")
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_loop, name="store-write", daemon=True)
        self._closed = False
        self.commits = 0
        """Transactions committed, for the metric of writes per commit."""

    def start(self) -> None:
        self._writer.start()

    @property
    def writer_engine(self) -> Engine:
        """For migrations, before `start`."""
        return self._writer_engine

    async def write(self, operation: Operation[T]) -> T:
        if self._closed:
            raise StorageUnavailable("the store is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put(_Job(operation, future))
        return await future

    async def read(self, operation: Operation[T]) -> T:
        def run() -> T:
            try:
                with self._reader_engine.begin() as connection:
                    return operation(connection)
            except DBAPIError as error:
                raise StorageUnavailable(str(error.orig)) from error

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def check(self) -> list[str]:
        rows = await self.read(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalars().all())
        return [row for row in rows if row != "ok"]

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        if self._writer.is_alive():
            await asyncio.get_running_loop().run_in_executor(None, self._writer.join)
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
            for loop in {job.loop for job in batch}:
                mine = [job for job in batch if job.loop is loop]
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_deliver, mine)
            if last:
                return

    def _commit(self, batch: list[_Job]) -> None:
        try:
            with self._writer_engine.begin() as connection:
                for job in batch:
                    try:
                        with connection.begin_nested():
                            job.value = job.operation(connection)
                    except IntegrityError as error:
                        job.error = error
                    except DBAPIError:
                        raise
                    except Exception as error:
                        job.error = error
            self.commits += 1
        except Exception as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            for job in batch:
                job.error = StorageUnavailable(str(cause))
