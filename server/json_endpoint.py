"""JSON over HTTP for scorers and guard models: one endpoint, bounded in time, size and connections.

Redirects are not followed (they could carry the key elsewhere), and what an endpoint says in its own words is not
repeated: it may quote what a user wrote. A cancelled call closes its connection.
"""

from __future__ import annotations

import os
from typing import Any

import aiohttp
from pydantic_core import from_json, to_json

Json = dict[str, Any]

MAX_REPLY_BYTES = 4 * 1024 * 1024
CONNECT_S = 5.0


class EndpointError(Exception):
    """Why there is no reply, in words for the operator."""


def key_from(variable: str) -> str:
    """The API key in an environment variable; empty where none is named. Raises `ValueError` where it is not set."""
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"the environment variable {variable} (key_env) is not set")
    return key


class JsonEndpoint:
    """Connections are opened on first use; for one event loop."""

    def __init__(
        self, base_url: str, key: str, *, max_connections: int, timeout_s: float, max_reply_bytes: int = MAX_REPLY_BYTES
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {"content-type": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"
        self._max_connections = max_connections
        self._timeout_s = timeout_s
        self._max_reply_bytes = max_reply_bytes
        self._session: aiohttp.ClientSession | None = None

    async def post(self, path: str, body: Json) -> Json:
        """The reply's JSON object; raises `EndpointError`."""
        try:
            content = to_json(body)
        except ValueError:
            raise EndpointError("the request cannot be written as JSON") from None
        try:
            async with self._connections().post(
                self._base_url + path, data=content, headers=self._headers, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise EndpointError(f"the endpoint answered HTTP {response.status}")
                content = await _read(response, self._max_reply_bytes)
        except TimeoutError:
            raise EndpointError("the endpoint did not answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise EndpointError(f"the endpoint cannot be reached: {type(error).__name__}") from None
        try:
            reply = from_json(content)
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise EndpointError("the endpoint's reply is not a JSON object")
        return reply

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _connections(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._max_connections),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=CONNECT_S),
            )
        return self._session


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    content = bytearray()
    async for piece in response.content.iter_chunked(65536):
        content += piece
        if len(content) > limit:
            raise EndpointError(f"the endpoint's reply is longer than {limit} bytes")
    return bytes(content)
