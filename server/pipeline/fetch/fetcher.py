"""Asks for images over HTTP, within bounds of time, size and number, and only where it is allowed to.

What a server says of itself is not believed: the length is counted, the type is read off the bytes by who decodes
them, nothing is decompressed. Requests carry no cookie, no credentials, and take no proxy from the environment.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final

import aiohttp
from yarl import URL

from server.config import ImageFetchConfig
from server.errors import BadRequest, Busy
from server.pipeline.fetch.addresses import AddressGuard
from server.pipeline.fetch.resolver import GuardedResolver, Lookup, NotPublic, system_lookup
from server.pipeline.fetch.sources import Sources
from server.pipeline.refusals import forbidden, not_fetched

CHUNK_BYTES: Final = 64 * 1024
NAME_THREADS: Final = 4
REDIRECTS: Final = {301, 302, 303, 307, 308}
HEADERS: Final = {
    "Accept": "image/png, image/jpeg, image/webp",
    "Accept-Encoding": "identity",
    "User-Agent": "plumbline",
}


class ImageFetcher:
    """A client for the configured sources. Made and used on one event loop; raises `OSError` for a bad `ca_file`."""

    def __init__(
        self,
        settings: ImageFetchConfig,
        *,
        max_bytes: int,
        count: Callable[[str], None],
        lookup: Lookup = system_lookup,
    ) -> None:
        """`count` is told of each address what became of it: `fetched`, `abandoned`, or the error's code."""
        self._settings = settings
        self._max_bytes = max_bytes
        self._count = count
        self._sources = Sources(settings.sources)
        self._guard = AddressGuard(settings.networks)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=GuardedResolver(self._guard, lookup, threads=NAME_THREADS),
                use_dns_cache=False,
                socket_factory=self._open_socket,
                ssl=ssl.create_default_context(cafile=settings.ca_file),
                limit=settings.max_concurrent,
                limit_per_host=settings.max_concurrent_per_host,
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=HEADERS,
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        await self._session.close()

    def admit(self, text: str) -> URL:
        """The address, for `fetch`; asks nobody. Raises `BadRequest` (`image_url_forbidden`)."""
        try:
            return self._sources.admit(text)
        except BadRequest as error:
            self._count(error.code)
            raise

    async def fetch(self, url: URL, take: Callable[[int], None]) -> bytes:
        """What the address holds. `take` is told of bytes before they are kept, and may raise `Busy`.

        Raises `BadRequest`: `image_url_forbidden` where the name or a redirect leads out of what is allowed,
        `image_fetch_failed` for all else.
        """
        outcome = "abandoned"
        try:
            data = await self._follow(url, take)
            outcome = "fetched"
        except (BadRequest, Busy) as error:
            outcome = error.code
            raise
        else:
            return data
        finally:
            self._count(outcome)

    async def _follow(self, url: URL, take: Callable[[int], None]) -> bytes:
        """Each redirect is a new address that is checked from the start."""
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                for _ in range(self._settings.max_redirects + 1):
                    answer = await self._ask(url, take)
                    if isinstance(answer, bytes):
                        return answer
                    url = answer
        except aiohttp.ClientConnectorDNSError:
            # One answer for names that do not exist and names of what is inside: it maps nobody's network.
            raise forbidden("its host has no public address") from None
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, NotPublic):
                raise forbidden("its host has no public address") from None
            raise not_fetched("no secure connection to its server came about") from None
        except TimeoutError:
            raise not_fetched("its server did not answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise not_fetched("its server broke off, or does not speak HTTP") from None
        raise not_fetched(f"it was redirected more than {self._settings.max_redirects} times")

    async def _ask(self, url: URL, take: Callable[[int], None]) -> bytes | URL:
        """The body, or where else to look."""
        async with self._session.get(url, allow_redirects=False) as response:
            if response.status in REDIRECTS:
                return self._sources.admit(_location(response))
            if response.status != 200:
                raise not_fetched(f"its server answered with status {response.status}")
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise not_fetched("its server sent it compressed")
            if (response.content_length or 0) > self._max_bytes:
                raise self._too_large()
            return await self._read(response.content, take)

    async def _read(self, content: aiohttp.StreamReader, take: Callable[[int], None]) -> bytes:
        parts, size = [], 0
        async for part in content.iter_chunked(CHUNK_BYTES):
            size += len(part)
            if size > self._max_bytes:
                raise self._too_large()
            take(len(part))
            parts.append(part)
        return b"".join(parts)

    def _too_large(self) -> BadRequest:
        return not_fetched(f"it is larger than {self._max_bytes} bytes")

    def _open_socket(self, target: aiohttp.AddrInfoType) -> socket.socket:
        """The last barrier: no socket for an address that is not allowed, however it came to be asked for.

        Hosts that are written as addresses get here without the resolver.
        """
        family, kind, protocol, _, address = target
        if not self._guard.allows(str(address[0])):
            raise NotPublic
        return socket.socket(family, kind, protocol)


def _location(response: aiohttp.ClientResponse) -> str:
    location = response.headers.get("Location", "")
    if location.isascii():
        return str(response.url.join(URL(location, encoded=True)))
    raise not_fetched("its server redirected to an address that is not well-formed")
