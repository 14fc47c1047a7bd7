"""Around every request: an id, a body limit, one error shape, metrics, one log line.

Plain ASGI, so that nothing is buffered and a stream's errors stay the stream's own.
"""

from __future__ import annotations

import logging
import re
import time

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.errors import error_response
from server.errors import BadRequest, ClientGone, NotFound, PlumblineError, StorageUnavailable, TooLarge
from server.ids import new_id
from server.metrics import Metrics

log = logging.getLogger("server.access")

UPLOAD = re.compile(r"^/v1/adapters/[^/]+/files/[^/]+$")
"""Adapter files are streamed to disk under bounds of their own."""

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

SAFE_ID = re.compile(r"^[A-Za-z0-9._-]{1,128}$")


class MethodNotAllowed(PlumblineError):
    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class Envelope:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, max_body_bytes: int) -> None:
        self._app = app
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes

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

        try:
            if not UPLOAD.match(scope["path"]):
                self._check_length(headers)
                receive = self._limited(receive)
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            if is_open:
                log.exception("a reply broke off", extra={"request_id": request_id})
            else:
                await error_response(self._as_public(error, request_id))(scope, receive, send_with_id)
        finally:
            self._note(scope, status, time.monotonic() - started, request_id)

    def _check_length(self, headers: dict[bytes, bytes]) -> None:
        length = headers.get(b"content-length")
        if length is None:
            return
        if not length.isdigit():
            raise BadRequest("Content-Length is not a number.")
        if int(length) > self._max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body is larger than {self._max_body_bytes} bytes.")

    def _limited(self, receive: Receive) -> Receive:
        taken = 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._max_body_bytes:
                raise self._too_large()
            return message

        return limited

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


def from_http_exception(error: HTTPException) -> PlumblineError:
    """Starlette's own refusals (unknown path, wrong method) in our shape."""
    if error.status_code == 405:
        return MethodNotAllowed("This path does not take this method.")
    if error.status_code == 404:
        return NotFound("There is no such path; the documentation lists those that are offered.")
    return BadRequest("The request cannot be used as it is.")
