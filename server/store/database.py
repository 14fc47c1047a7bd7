"""The database behind the store: the port, and the batch of writes that its adapters commit together.

Writes that wait together are committed together, so one sync serves them all, and what one of them raises spoils no
other. A write that has returned is on disk. `server.store.sqlite` and `server.store.postgres`
are the adapters; `server.store.opening` chooses between them.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError

from server.errors import StorageUnavailable

T = TypeVar("T")
Item = TypeVar("Item")
Operation = Callable[[Connection], T]
"""What is done in a transaction. It may be run again after a transaction that did not commit: its only effects are
on the connection."""
BulkOperation = Callable[[Connection, Sequence[Item]], None]
"""An operation on many items that costs little more than one on a single item."""

MAX_BATCH = 256
"""Most operations in one commit: bounds how long the first of them waits."""


class Database(Protocol):
    """Transactions over the schema. Safe for concurrent use on one event loop.

    `write` and `read` raise what the operation raises, or `StorageUnavailable` when the database itself fails; then
    nothing of the operation was acknowledged.
    """

    commits: int
    """Transactions committed, for the metric of writes per commit."""

    @property
    def is_healthy(self) -> bool:
        """False from a failure of the database itself until it works again, which is tried without being asked."""
        ...

    async def start(self) -> None:
        """Bring the schema up to date, then accept work; raises `StorageUnavailable`."""
        ...

    async def write(self, operation: Operation[T]) -> T:
        """Run in a transaction of all-or-nothing; durable once this returns.

        Writes are one after the other, those of other servers on the same database included.
        """
        ...

    async def add(self, operation: BulkOperation[Item], item: Item) -> None:
        """Like `write`, but one call does it for all items that wait for the same operation."""
        ...

    async def read(self, operation: Operation[T]) -> T:
        """Run on a consistent snapshot that holds every write that had returned."""
        ...

    async def check(self) -> list[str]:
        """What is wrong with the database's files, in words; empty when nothing is."""
        ...

    async def close(self) -> None:
        """Finish what was queued, then release everything; idempotent."""
        ...


class Undone(Exception):
    """The only job of a transaction failed by its own fault: the transaction is to be rolled back, no more."""


class Job:
    """One queued write, and where its result goes. Jobs whose `bulk` is the same are done by one call of it."""

    __slots__ = ("bulk", "error", "future", "item", "operation", "value")

    def __init__(self, operation: Operation[Any], future: asyncio.Future[Any]) -> None:
        self.operation = operation
        self.future = future
        self.bulk: BulkOperation[Any] | None = None
        self.item: Any = None
        self.value: Any = None
        self.error: BaseException | None = None

    @classmethod
    def of_item(cls, bulk: BulkOperation[Item], item: Item, future: asyncio.Future[None]) -> Job:
        job = cls(lambda connection: bulk(connection, [item]), future)
        job.bulk, job.item = bulk, item
        return job

    def deliver(self) -> None:
        if self.future.cancelled():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)


class Writing(ABC):
    """How the adapters take writes: each becomes a job that waits for its batch."""

    _closed = False

    async def write(self, operation: Operation[T]) -> T:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._take(Job(operation, future))
        return await future

    async def add(self, operation: BulkOperation[Item], item: Item) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._take(Job.of_item(operation, item, future))
        await future

    def _take(self, job: Job) -> None:
        if self._closed:
            raise StorageUnavailable("the store is closed")
        self._queue_up(job)

    @abstractmethod
    def _queue_up(self, job: Job) -> None: ...


def run_batch(connection: Connection, jobs: Sequence[Job]) -> None:
    """Run the jobs inside the caller's transaction; raises where the database itself fails, and then all did.

    Several share a savepoint, which is cheap. Only when one of them fails they run again, each in a savepoint of its
    own. A single one needs none: where it fails, `Undone` tells the caller to roll back.
    """
    if len(jobs) == 1:
        if not _run(connection, jobs[0], contextlib.nullcontext()):
            raise Undone
        return
    if not _run_together(connection, jobs):
        for job in jobs:
            _run(connection, job, connection.begin_nested())


def _run_together(connection: Connection, jobs: Sequence[Job]) -> bool:
    items: dict[BulkOperation[Any], list[Any]] = {}
    try:
        with connection.begin_nested():
            for job in jobs:
                job.value, job.error = None, None
                if job.bulk is None:
                    job.value = job.operation(connection)
                else:
                    items.setdefault(job.bulk, []).append(job.item)
            for bulk, waiting in items.items():
                bulk(connection, waiting)
    except (IntegrityError, DataError, ProgrammingError):
        return False
    except (DBAPIError, OSError):
        raise
    except Exception:
        return False
    return True


def _run(connection: Connection, job: Job, transaction: AbstractContextManager[object]) -> bool:
    """Whether it succeeded; raises where the database itself failed."""
    job.value, job.error = None, None
    try:
        with transaction:
            job.value = job.operation(connection)
    except IntegrityError as error:
        job.error = error
    except (DataError, ProgrammingError) as error:  # its own fault, and undone with its transaction
        job.error = StorageUnavailable(cause(error))
    except (DBAPIError, OSError):
        raise
    except Exception as error:
        job.error = error
    return job.error is None


def fail_batch(jobs: Sequence[Job], error: Exception) -> None:
    """Tell every job that the database failed. Each gets an exception of its own: tracebacks grow on a shared one."""
    for job in jobs:
        job.value, job.error = None, StorageUnavailable(cause(error))


def cause(error: Exception) -> str:
    """What the database said, in one line, for the log. About a value it says nothing: a user wrote it."""
    if isinstance(error, DataError):
        return "a value does not fit its column"
    inner = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return f"{type(inner).__name__}: {inner}".splitlines()[0]
