"""How many bytes of images requests may hold together, from their arrival until the last use of their bytes."""

from __future__ import annotations

import weakref
from collections import deque

from reward.types import Image
from server.errors import Busy


class ByteBudget:
    """A bound that refuses and never waits: two requests that wait for each other's bytes would wait for ever.

    Taken on the event loop; given back from any thread, also by the garbage collector, hence the queue.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._taken = 0
        self._given: deque[int] = deque()

    @property
    def used_bytes(self) -> int:
        while self._given:
            self._taken -= self._given.popleft()
        return self._taken

    def take(self, size: int) -> None:
        """Raises `Busy`, having taken nothing."""
        if self.used_bytes + size > self._limit:
            raise Busy("The images in work fill the memory set aside for them; try again after Retry-After.")
        self._taken += size

    def give(self, size: int) -> None:
        self._given.append(size)

    def share(self) -> Share:
        return Share(self)


class Share:
    """What one image takes of the budget. Given back on leaving the block, or with the image that was made of it."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._size = 0

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.give(self._size)
        self._size = 0

    def take(self, size: int) -> None:
        """`size` more bytes; raises `Busy`."""
        self._budget.take(size)
        self._size += size

    def pass_to(self, image: Image) -> None:
        """Hold the image's own size for as long as it lives; raises `Busy` where it grew over what is left."""
        size = len(image.data)
        self.__exit__()
        self._budget.take(size)
        weakref.finalize(image, self._budget.give, size).atexit = False
