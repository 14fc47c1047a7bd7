"""Where a name is turned into addresses: once for each connection, and only into addresses that are allowed.

The HTTP client connects to exactly what is returned here, so a name that answers differently the next time gains
nothing. TLS still verifies the name.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult

from server.pipeline.fetch.addresses import AddressGuard

Lookup = Callable[[str, int], Sequence[str]]
"""The addresses of a name (with the port that is meant). Blocks; raises `OSError`."""


class NotPublic(OSError):
    """A connection to this address is not allowed."""


def system_lookup(host: str, port: int) -> list[str]:
    """As the operating system resolves names."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class GuardedResolver(AbstractResolver):
    """Resolves on threads of its own, so that a dead name server stops nothing but fetches."""

    def __init__(self, guard: AddressGuard, lookup: Lookup, *, threads: int) -> None:
        self._guard = guard
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="image-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """All of the name's addresses; raises `NotPublic` when a single one is not allowed, `OSError` without any."""
        found = await asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, host, port)
        if not found or not all(map(self._guard.allows, found)):
            raise NotPublic
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in dict.fromkeys(found)
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
