"""SQLite behind the port: one file, one writing connection, owned by this process alone.

WAL with `synchronous=FULL`; the writing connection lives in one thread, which also does the checkpoints (the
WAL-reset bug of SQLite before 3.51.3 needs two writing connections); reads use read-only connections.

A write that fails for any reason but a lock makes the store unhealthy: what is in memory, and what a sync that
failed left in the log, is believed no more. It confirms nothing until it has closed every connection, opened the file
again (SQLite then checks the log) and moved the log into the database with a sync that worked. See
docs/decisions/0004-a-failed-commit-reopens-the-file.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from server import faults
from server.errors import StorageUnavailable
from server.store.blobs import write_durably
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

BUSY_TIMEOUT_S = 5.0
REOPEN_INTERVAL_S = 0.5
"""Pause between two attempts to open a file that failed."""
HARMLESS = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
"""Failures that leave the file beyond doubt: a statement that is wrong, somebody else's lock."""
DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


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
            connection.execute("PRAGMA secure_delete=ON")  # what was erased is overwritten
        return connection

    engine = create_engine(
        "sqlite://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=16,
        max_overflow=0,
        hide_parameters=True,  # they are what users wrote, and errors are logged
    )

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


class SqliteDatabase(Writing):
    """`Database` on one SQLite file."""

    def __init__(self, path: Path, *, read_connections: int, max_batch: int = MAX_BATCH) -> None:
        self._max_batch = max_batch
        self._path = path
        self._marker = path.with_name(f"{path.name}.exists")
        self._failure: Exception | None = None
        self._identity: tuple[int, int] | None = None
        self._writer_engine = _engine(path, read_only=False)
        self._reader_engine = _engine(path, read_only=True)
        self._readers = ThreadPoolExecutor(read_connections, thread_name_prefix="store-read")
        self._arrived: list[Job] = []
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_loop, name="store-write", daemon=True)
        self._connection: Connection | None = None
        """The writing one, from the first commit until the file fails."""
        self.commits = 0

    @property
    def is_healthy(self) -> bool:
        return self._failure is None

    async def start(self) -> None:
        await asyncio.to_thread(self._open)
        self._writer.start()

    def _open(self) -> None:
        if self._is_lost():
            raise StorageUnavailable(
                f"{self._path.name} is missing or empty, though it was there before: restore the state directory "
                f"from a backup, or remove {self._marker.name} to begin anew"
            )
        try:
            with self._writer_engine.begin() as connection:
                migrate(connection)
                faults.point("store.migrating")
            self._identity = self._present_identity()
            if not self._marker.exists():
                write_durably(self._marker, b"")
        except (DBAPIError, OSError) as error:
            raise StorageUnavailable(cause(error)) from error

    def _is_lost(self) -> bool:
        """Whether a database was there once and is not now: it is never made again, empty."""
        return self._marker.exists() and not (self._path.exists() and self._path.stat().st_size)

    def _present_identity(self) -> tuple[int, int]:
        """Which file bears the database's name; raises `OSError` when none does."""
        found = self._path.stat()
        return found.st_dev, found.st_ino

    def _queue_up(self, job: Job) -> None:
        if not self._arrived:
            asyncio.get_running_loop().call_soon(self._hand_over)
        self._arrived.append(job)

    def _hand_over(self) -> None:
        """What arrives in one turn of the event loop reaches the writer together, so that it shares a commit."""
        for job in self._arrived:
            self._queue.put(job)
        self._arrived.clear()

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
            return [row for row in rows if row != "ok"]

        return await self.read(read)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._hand_over()
        self._queue.put(None)
        if self._writer.is_alive():
            await asyncio.to_thread(self._writer.join)
        self._readers.shutdown(wait=True)
        self._reader_engine.dispose()
        self._let_go()
        self._writer_engine.dispose()  # last: only a connection that writes clears the log away

    def _write_loop(self) -> None:
        while True:
            try:
                job = self._queue.get(timeout=None if self.is_healthy else REOPEN_INTERVAL_S)
            except queue.Empty:
                self._reopen()
                continue
            if job is None:
                return
            batch = [job]
            last = False
            while len(batch) < self._max_batch and not self._queue.empty():
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
        if self._failure is not None:
            self._reopen()
        if self._failure is not None:
            fail_batch(batch, self._failure)
            return
        try:
            if self._connection is None:
                self._connection = self._writer_engine.connect()
            with self._connection.begin():
                run_batch(self._connection, batch)
                faults.point("store.before_commit")
                faults.point("store.sync")
            if self._present_identity() != self._identity:
                raise OSError(f"{self._path.name} is another file than the one that was opened")
            self.commits += 1
            faults.point("store.after_commit")
        except Undone:
            return
        except Exception as error:
            self._let_go()
            fail_batch(batch, error)
            if _code(error) not in HARMLESS:
                self._failure = error
                log.error("the store confirms nothing until it could be opened again: %s", cause(error))

    def _let_go(self) -> None:
        """Of the writing connection; the next commit takes one anew."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(DBAPIError, sqlite3.Error):
                connection.close()

    def _reopen(self) -> None:
        """Trust the disk alone: close everything, open again, bring the log into the database, and try a write."""
        was_damaged = _code(self._failure) in DAMAGED
        self._let_go()
        self._reader_engine.dispose()
        self._writer_engine.dispose()
        try:
            faults.point("store.reopening")
            if self._is_lost():
                raise FileNotFoundError(f"{self._path.name} is missing or empty")
            identity = self._present_identity()
            with self._writer_engine.connect() as connection:
                raw = connection.connection.driver_connection
                assert raw is not None
                if was_damaged and raw.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                    raise sqlite3.DatabaseError("the file is damaged")
                if raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                    raise sqlite3.OperationalError("a reader is in the way")
                raw.execute("PRAGMA user_version=0")  # changes nothing, and is written and synced like anything else
        except (DBAPIError, sqlite3.Error, OSError) as error:
            log.warning("the store cannot be opened yet: %s", cause(error))
            return
        self._identity, self._failure = identity, None
        log.info("the store was opened again")


def _code(error: Exception | None) -> int | None:
    """SQLite's primary result code of an error, where it has one."""
    inner = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(inner, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _deliver(jobs: list[Job]) -> None:
    for job in jobs:
        job.deliver()
