"""A step that is done again and again in the background: when it is woken, when its own wait is over, after errors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from server.errors import StaleGeneration

log = logging.getLogger(__name__)

MAX_PAUSE_S = 60.0


async def repeat(name: str, event: asyncio.Event, step: Callable[[], Awaitable[float]], *, retry_s: float) -> None:
    """Until cancelled. The step says how long to wait for the next look; `retry_s`: first pause after an error."""
    pause = retry_s
    while True:
        event.clear()
        try:
            wait = await step()
            pause = retry_s
        except StaleGeneration:
            continue  # somebody else was faster: look again
        except Exception:
            log.exception("rollout (%s) failed; trying again in %.1f s", name, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, MAX_PAUSE_S)
            continue
        # Not wait_for: in Python 3.11 it can swallow a cancellation that meets the event.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await event.wait()
