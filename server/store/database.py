"""The database behind the store: the port, and the batch of writes that its adapters commit together.

Writes that wait together are committed together, each in a savepoint of its own, so one sync serves them all and
one failure spoils no other. A write that has returned is on disk. `server.store.sqlite` and `server.store.postgres`
are the adapters; `server.store.opening` chooses between them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError

from server.errors import StorageUnavailable

T = TypeVar("T")
Operation = Callable[[Connection], T]
"""What is done in a transaction. It may be run again after a transaction that did not commit: its only effects are
on the connection."""

MAX_BATCH = 256
"""Most operations in one commit: bounds how long the first of them waits."""


class Database(Protocol):
    """Transactions over the schema. Safe for concurrent use on one event loop.

    `write` and `read` raise what the operation raises, or `StorageUnavailable` when the database itself fails; then
    nothing of the operation was acknowledged.
    """

    commits: int
    """Transactions committed, for the metric of writes per commit."""

    async def start(self) -> None:
        """Bring the schema up to date, then accept work; raises `StorageUnavailable`."""
        ...

    async def write(self, operation: Operation[T]) -> T:
        """Run in a transaction of all-or-nothing; durable once this returns.

        Writes are one after the other, those of other servers on the same database included.
        """
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


class Job:
    """One queued write and where its result goes."""

    __slots__ = ("error", "future", "operation", "value")

    def __init__(self, operation: Operation[Any], future: asyncio.Future[Any]) -> None:
        self.operation = operation
        self.future = future
        self.value: Any = None
        self.error: BaseException | None = None

    def deliver(self) -> None:
        if self.future.cancelled():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)


def run_batch(connection: Connection, jobs: Sequence[Job]) -> None:
    """Run the jobs inside the caller's transaction; raises where the database itself fails, and then all did."""
    for job in jobs:
        job.value, job.error = None, None
        try:
            with connection.begin_nested():
                job.value = job.operation(connection)
        except IntegrityError as error:
            job.error = error
        except (DataError, ProgrammingError) as error:  # its own fault, and undone with its savepoint
            job.error = StorageUnavailable(cause(error))
        except DBAPIError:
            raise
        except Exception as error:
            job.error = error


def fail_batch(jobs: Sequence[Job], error: Exception) -> None:
    """Tell every job that the database failed. Each gets an exception of its own: tracebacks grow on a shared one."""
    for job in jobs:
        job.value, job.error = None, StorageUnavailable(cause(error))


def cause(error: Exception) -> str:
    """What the database said, in one line, for the log."""
    inner = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return f"{type(inner).__name__}: {inner}".splitlines()[0]
