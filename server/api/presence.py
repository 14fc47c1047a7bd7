"""Whether whoever asked is still there: work for a client that has left is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from fastapi import Request

from server.errors import ClientGone

T = TypeVar("T")


async def unless_disconnected(request: Request, work: Coroutine[None, None, T]) -> T:
    """What the work gives; raises `ClientGone` when the client leaves first, and the work is cancelled: its fetches
    end, its candidates are aborted in the engine.
    """
    working = asyncio.current_task()
    assert working is not None
    has_left = False

    async def watch() -> None:
        nonlocal has_left
        await _disconnected(request)
        has_left = True
        working.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if not has_left:
            raise
        working.uncancel()
        raise ClientGone("The client closed the connection.") from None
    finally:
        watching.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
