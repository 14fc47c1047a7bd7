"""How many requests are in work at once, and how many may wait. The rest is told to come back.

Fair between tenants: places are given to the waiting tenants in turn, and in a full queue a tenant with fewer waiting
takes the place of the newest one of the tenant with the most (longest queue drop, Suter et al., 1999). So nobody fills
the queue alone while others ask, and a single tenant may use all of it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import Self

from server.errors import Busy


class Place:
    """One request's, from joining to leaving: leave the `with` block in any case, wait for `turn` before working."""

    __slots__ = ("_given", "_room", "_tenant")

    def __init__(self, room: Admission, tenant: str, given: asyncio.Future[None] | None) -> None:
        self._room = room
        self._tenant = tenant
        self._given = given

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._room.leave(self._tenant, self._given)

    async def turn(self) -> None:
        """Until the request may be worked on; raises `Busy` where its place in the queue went to another tenant."""
        if self._given is not None:
            await self._given


class Admission:
    """A bounded room with a bounded queue before it. For one event loop."""

    def __init__(self, *, concurrent: int, queued: int) -> None:
        self._free = concurrent
        self._queued = queued
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """By tenant, the next to get a place first; no tenant without anybody waiting."""
        self._queue_length = 0
        self._inside = 0

    @property
    def present(self) -> int:
        """Requests inside or waiting."""
        return self._inside + self._queue_length

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._queue_length

    def join(self, tenant: str) -> Place:
        """A place inside, or in the queue; raises `Busy` when that is full."""
        if self._free:
            self._free -= 1
            self._inside += 1
            return Place(self, tenant, None)
        if self._queue_length >= self._queued:
            self._make_room(tenant)
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(given)
        self._queue_length += 1
        return Place(self, tenant, given)

    def leave(self, tenant: str, given: asyncio.Future[None] | None) -> None:
        """Give up what `join` gave."""
        if given is None or (given.done() and not given.cancelled() and given.exception() is None):
            self._inside -= 1
            self._pass_on()
        else:
            self._forget(tenant, given)

    def _make_room(self, tenant: str) -> None:
        """Refuse the newest of the tenant that has the most waiting; raises `Busy` where that would be no fairer."""
        longest = max(self._waiting, key=lambda name: len(self._waiting[name]), default=tenant)
        if len(self._waiting.get(longest, ())) <= len(self._waiting.get(tenant, ())) + 1:
            raise _full()
        place = self._waiting[longest][-1]
        self._forget(longest, place)
        place.set_exception(_full())

    def _pass_on(self) -> None:
        """Give a place to the next tenant's oldest."""
        while self._waiting:
            tenant, places = next(iter(self._waiting.items()))
            place = places[0]
            self._forget(tenant, place)
            if tenant in self._waiting:
                self._waiting.move_to_end(tenant)
            if not place.done():
                self._inside += 1
                place.set_result(None)
                return
        self._free += 1

    def _forget(self, tenant: str, place: asyncio.Future[None]) -> None:
        places = self._waiting.get(tenant)
        if places is None or place not in places:
            return
        places.remove(place)
        self._queue_length -= 1
        if not places:
            del self._waiting[tenant]


def _full() -> Busy:
    return Busy("Too many requests are waiting; try again after the time in Retry-After.")
