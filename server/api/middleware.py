"""Around every request: an id, limits of headers and body, one error shape, metrics, one log line.

Plain ASGI, so that nothing is buffered and a stream's errors stay the stream's own.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.connection import MAX_HEADER_BYTES
from server.api.errors import error_response
from server.config import HttpConfig
from server.errors import (
    BadRequest,
    Busy,
    ClientGone,
    HeadersTooLarge,
    NotFound,
    PlumblineError,
    RequestTimeout,
    StorageUnavailable,
    TooLarge,
)
from server.ids import new_id
from server.metrics import Metrics

log = logging.getLogger("server.access")

UPLOAD = re.compile(r"^/v1/adapters/[^/]+/files/[^/]+$")
"""Adapter files are streamed to disk under bounds of their own."""

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

MAX_HEADERS = 100
BODY_BYTES_PER_S = 1024
"""What comes more slowly for long is not waited for."""

HOST = re.compile(rb"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?$")

LOOPBACK = re.compile(rb"^(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]{1,5})?$")

SAFE_ID = re.compile(r"^[A-Za-z0-9._-]{1,128}$")


class MethodNotAllowed(PlumblineError):
    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class Envelope:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, settings: HttpConfig) -> None:
        self._app = app
        self._metrics = metrics
        self._settings = settings
        self._buffered_bytes = 0
        """Bodies of all open requests."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        wanted = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = wanted if SAFE_ID.match(wanted) else new_id("req")
        started, status = time.monotonic(), 500
        is_open = False

        async def send_with_id(message: Message) -> None:
            nonlocal status, is_open
            if message["type"] == "http.response.start":
                is_open, status = True, message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        body = _Body(self, receive, is_kept=not UPLOAD.match(scope["path"]))
        try:
            _check_head(scope, headers)
            self._check_host(headers)
            if body.is_kept:
                self._check_length(headers)
            await self._app(scope, body.receive, send_with_id)
        except Exception as error:
            if is_open:
                log.exception("a reply broke off", extra={"request_id": request_id})
            else:
                public = self._as_public(error, request_id)
                self._metrics.errors.labels(public.code).inc()
                await error_response(public)(scope, receive, send_with_id)
        finally:
            body.release()
            self._note(scope, status, time.monotonic() - started, request_id)

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        """Without keys a page must not ask under a name of its own that it let resolve to this machine (DNS rebinding):
        to its browser that page would be ours.
        """
        if not self._settings.require_keys and not LOOPBACK.match(headers.get(b"host", b"localhost").lower()):
            raise BadRequest("Without keys only requests to localhost are answered.", code="invalid_host")

    def _check_length(self, headers: dict[bytes, bytes]) -> None:
        length = headers.get(b"content-length")
        if length is None:
            return
        if not length.isdigit():
            raise BadRequest("Content-Length is not a number.")
        if int(length) > self._settings.max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body is larger than {self._settings.max_body_bytes} bytes.")

    def take(self, taken: int, size: int) -> None:
        """Count a further piece of a body that is kept in memory; raises `TooLarge` or `Busy`."""
        if taken > self._settings.max_body_bytes:
            raise self._too_large()
        if self._buffered_bytes + size > self._settings.max_buffered_bytes:
            raise Busy("Too many bodies are being read; try again after the time in Retry-After.")
        self._buffered_bytes += size

    def give_back(self, size: int) -> None:
        self._buffered_bytes -= size

    def body_time_s(self, taken: int) -> float:
        return self._settings.body_timeout_s + taken / BODY_BYTES_PER_S

    def _as_public(self, error: Exception, request_id: str) -> PlumblineError:
        if isinstance(error, StorageUnavailable):
            self._metrics.store_errors.inc()
            log.error("store: %s", error.cause, extra={"request_id": request_id})
        if isinstance(error, PlumblineError):
            return error
        if isinstance(error, ClientDisconnect):
            return ClientGone("The client closed the connection.")
        log.exception("unexpected", extra={"request_id": request_id})
        return PlumblineError("Something went wrong here; the log has it under this request id.")

    def _note(self, scope: Scope, status: int, elapsed_s: float, request_id: str) -> None:
        route = scope.get("route")
        path = getattr(route, "path", "other")
        self._metrics.requests.labels(path, str(status)).inc()
        self._metrics.request_seconds.labels(path).observe(elapsed_s)
        log.info(
            "%s %s %d",
            scope["method"] if scope["method"] in METHODS else "other",
            path,
            status,
            extra={"request_id": request_id, "elapsed_ms": round(elapsed_s * 1000, 1)},
        )


class _Body:
    """One request's body on its way in: bounded in time, and in size where it is kept in memory."""

    __slots__ = ("_envelope", "_is_whole", "_kept", "_receive", "_started_s", "_taken", "is_kept")

    def __init__(self, envelope: Envelope, receive: Receive, *, is_kept: bool) -> None:
        self._envelope = envelope
        self._receive = receive
        self._started_s = asyncio.get_running_loop().time()
        self._is_whole = False
        self._taken = self._kept = 0
        self.is_kept = is_kept

    async def receive(self) -> Message:
        """The next piece; raises `RequestTimeout`, `TooLarge` or `Busy`."""
        if self._is_whole:  # what comes now is the client's leaving, which has all the time there is
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._started_s + self._envelope.body_time_s(self._taken)):
                message = await self._receive()
        except TimeoutError:
            raise RequestTimeout("The body did not arrive in time.") from None
        self._is_whole = not message.get("more_body", False)
        size = len(message.get("body", b""))
        self._taken += size
        if self.is_kept:
            self._envelope.take(self._taken, size)
            self._kept += size
        return message

    def release(self) -> None:
        """The request is over."""
        self._envelope.give_back(self._kept)


def _check_head(scope: Scope, headers: dict[bytes, bytes]) -> None:
    """What no client of ours sends, and the server or a proxy before it may read otherwise than we do."""
    listed = scope["headers"]
    size = len(scope["path"]) + len(scope["query_string"]) + sum(len(name) + len(value) for name, value in listed)
    if len(listed) > MAX_HEADERS or size > MAX_HEADER_BYTES:
        raise HeadersTooLarge(f"Send at most {MAX_HEADERS} headers, with the URL of {MAX_HEADER_BYTES} bytes together.")
    host = headers.get(b"host")
    if host is not None and not HOST.match(host):
        raise BadRequest("The Host header names no host.", code="invalid_host")
    if b"transfer-encoding" in headers and b"content-length" in headers:
        raise BadRequest("Send Content-Length or Transfer-Encoding, not both.", code="invalid_http")
    if "\0" in scope["path"] or b"%00" in scope["query_string"]:
        raise BadRequest("A URL cannot hold the character NUL.", code="invalid_encoding")


def from_http_exception(error: HTTPException) -> PlumblineError:
    """Starlette's own refusals (unknown path, wrong method) in our shape."""
    if error.status_code == 405:
        return MethodNotAllowed("This path does not take this method.")
    if error.status_code == 404:
        return NotFound("There is no such path. The API lies below /v1 (base URL http://HOST:PORT/v1), pages at /ui.")
    return BadRequest("The request cannot be used as it is.")
