"""Both clients behind one way of calling them, so that every promise is tested of both."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from clients import AsyncPlumbline, Plumbline


class Flavour:
    """A client, and how its promises are kept: at once, or on a loop of its own."""

    def __init__(self, client: Plumbline | AsyncPlumbline, loop: asyncio.AbstractEventLoop) -> None:
        self.client: Any = client
        self._loop = loop

    def got(self, value: Any) -> Any:
        """What the call gives in the end."""
        return self._loop.run_until_complete(value) if inspect.isawaitable(value) else value

    def read(self, stream: Any) -> list[str]:
        """The pieces of an opened stream; closed behind it."""

        async def read_async() -> list[str]:
            async with stream:
                return [piece async for piece in stream]

        if hasattr(stream, "__aiter__"):
            return self._loop.run_until_complete(read_async())
        with stream:
            return list(stream)


@contextmanager
def flavour(
    kind: type[Plumbline | AsyncPlumbline], url: str, key: str | None = None, **options: Any
) -> Iterator[Flavour]:
    with asyncio.Runner() as runner:
        one = Flavour(kind(url, key, **options), runner.get_loop())
        try:
            yield one
        finally:
            one.got(one.client.close())
