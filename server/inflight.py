"""Answers on their way: who speaks about one waits until it is stored, or never will be.

A streaming client knows its answer's id before the group is committed, so feedback can arrive first. Whoever may still
store an answer holds it here; the commit settles it.

Another server's answers are not held here. But ids are marked (`Signer.completion_id`), so a server knows an id that
another one gave for an answer to be kept, and when. While that answer may still be under way, whoever asks is told to
come back, and not that there is none. Only then: a mark that outlived its answer would promise it for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from server.errors import AnswerPending

MAX_WAITING: Final = 256
"""Callers that may wait at once; more are told to come back."""
UNDER_WAY_S: Final = 3600.0
"""No answer takes longer, from its id to its commit: queue, engine, scorers and store have limits far below it."""

PromisedAt = Callable[[str, str], float | None]
"""(tenant, completion id) → when the id was given for an answer to be kept, UTC seconds; None: it was not."""


@dataclass(slots=True, eq=False)
class _Answer:
    holders: int = 0
    settled: asyncio.Event = field(default_factory=asyncio.Event)


class InFlight:
    """The answers that this process may still store, by tenant and completion id. For one event loop.

    `promised_at` where other servers may store answers too.
    """

    def __init__(self, wait_s: float, *, promised_at: PromisedAt | None, clock: Callable[[], float]) -> None:
        self._wait_s = wait_s
        self._promised_at = promised_at
        self._clock = clock
        self._answers: dict[tuple[str, str], _Answer] = {}
        self._waiting = 0

    def __len__(self) -> int:
        return len(self._answers)

    @contextlib.contextmanager
    def hold(self, tenant: str, completion_id: str) -> Iterator[None]:
        """For whoever may still store the answer. It is settled when the last holder leaves, if not before."""
        key = (tenant, completion_id)
        answer = self._answers.setdefault(key, _Answer())
        answer.holders += 1
        try:
            yield
        finally:
            answer.holders -= 1
            if not answer.holders and self._answers.get(key) is answer:
                self.settle(tenant, completion_id)

    def settle(self, tenant: str, completion_id: str) -> None:
        """The answer is stored: let those who wait look for it. Does nothing when it is settled already."""
        answer = self._answers.pop((tenant, completion_id), None)
        if answer is not None:
            answer.settled.set()

    async def settled(self, tenant: str, completion_id: str) -> None:
        """Returns once the answer is stored or never will be, at once when it is not on its way.

        Raises `AnswerPending` when that takes too long, or too many wait.
        """
        answer = self._answers.get((tenant, completion_id))
        if answer is None:
            return
        if self._waiting >= MAX_WAITING:
            raise _pending()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_s):
                await answer.settled.wait()
        except TimeoutError:
            raise _pending() from None
        finally:
            self._waiting -= 1

    def require_no_promise(self, tenant: str, completion_id: str) -> None:
        """For an answer that is not in the store: raises `AnswerPending` where another server may still store it."""
        promised_at = self._promised_at(tenant, completion_id) if self._promised_at is not None else None
        if promised_at is not None and abs(self._clock() - promised_at) < UNDER_WAY_S:  # clocks of servers differ
            raise _pending()


def _pending() -> AnswerPending:
    return AnswerPending("This answer is still being made; send it again after the time in Retry-After.")
