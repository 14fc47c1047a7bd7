"""The HTTP connections of the public listener: what uvicorn leaves open is bounded here.

uvicorn on httptools refuses malformed requests, but it reads heads of any length, waits for ever for the end of one,
for the rest of a body after an early reply, and for a client that does not read; it answers what it refuses in plain
text, and before the requests that came first. Here:

- Heads are bounded in size (431), and in time, counted from the connection's opening or their first byte (408).
- A request that offers another protocol (curl --http2, Java's client) is answered in this one; its parser would leave
  the body to the other.
- A request names one host, and a path: whatever stood before it could name another.
- After a reply that came before the request's end the rest is read and dropped for a moment, so that the client can
  read the reply; then the connection is closed.
- Few requests may be sent ahead of the replies.
- A client that takes nothing of a reply is cut off.
- What is refused gets the one error shape, after the replies to what came before it.

Bodies have their time in `server.api.middleware`, which sees how much of them has come.
"""

from __future__ import annotations

import asyncio
import sys
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.api.errors import error_body
from server.errors import BadRequest, HeadersTooLarge, PlumblineError, RequestTimeout
from server.ids import new_id

MAX_HEADER_BYTES: Final = 32 * 1024
LINGER_S: Final = 5.0
MAX_PIPELINED: Final = 16
"""Requests that may wait for the replies to those before them."""
OFFER: Final = {b"connection", b"http2-settings", b"upgrade"}
"""Headers of a request that offers another protocol."""


class _Reading(Enum):
    """What the next byte belongs to."""

    NOTHING = auto()
    HEAD = auto()
    BODY = auto()


class Connection(HttpToolsProtocol):
    """One client's connection, with `headers_s` for its headers and `unread_s` for taking a piece of a reply."""

    def __init__(self, *arguments: Any, headers_s: float, unread_s: float, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._headers_s = headers_s
        self._unread_s = unread_s
        self._reading = _Reading.NOTHING
        self._received = b""
        self._has_offered = False
        self._head_bytes = 0
        """Of an incomplete head, so far."""
        self._deadline: asyncio.TimerHandle | None = None
        """For a head, or of the lingering."""
        self._is_lingering = False
        self._refusal: PlumblineError | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self._received = data
        super().data_received(data)
        if self._refusal is not None:
            return
        if self._is_lingering and self._reading is not _Reading.BODY:
            self._disarm()
        if self._reading is _Reading.HEAD:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEADER_BYTES:
                self._refuse(HeadersTooLarge(f"The headers are larger than {MAX_HEADER_BYTES} bytes."))
                return
        is_waited_for = self._reading is _Reading.HEAD or (self._reading is _Reading.NOTHING and self._is_answered)
        if is_waited_for and self._deadline is None:
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._is_read()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reading = _Reading.HEAD
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """Raises `ValueError`, which the parser turns into a refusal."""
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1") or not self.url.startswith(b"/"):
            raise ValueError("a request names one host and a path")
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests at once")
        if self.parser.should_upgrade():
            return
        self._reading = _Reading.BODY
        super().on_headers_complete()
        if not self._is_lingering:
            self._disarm()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._reading = _Reading.NOTHING

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_answered or self.transport.is_closing():
            return
        if self._refusal is not None:
            self._reply(self._refusal)
        elif self._reading is _Reading.BODY:
            self._linger()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self._unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_read()

    def send_400_response(self, msg: str) -> None:
        """Called where the parser refuses what it reads."""
        self._refuse(BadRequest("This is no valid HTTP request.", code="invalid_http"))

    def _unsupported_upgrade_warning(self) -> None:
        """Called where the parser stops behind the head of a request that offers another protocol."""
        stopped = sys.exc_info()[1]
        if self._has_offered or not isinstance(stopped, httptools.HttpParserUpgrade):
            self.send_400_response("")
            return
        self._has_offered = True
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/", self.parser.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            head += [] if name in OFFER else [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        super().data_received(b"".join([*head, b"connection: close\r\n\r\n", self._received[stopped.args[0] :]]))

    @property
    def _is_answered(self) -> bool:
        """Every request so far."""
        return self.cycle is None or self.cycle.response_complete

    def _expect_headers(self) -> None:
        self._deadline = self.loop.call_later(self._headers_s, self._headers_are_late)

    def _headers_are_late(self) -> None:
        self._deadline = None
        if self._reading is _Reading.HEAD:
            self._refuse(RequestTimeout("The headers did not arrive in time."))
        else:  # nothing was asked
            self.transport.close()

    def _refuse(self, error: PlumblineError) -> None:
        """Read no more of what comes, and say why unless the reply to it has begun."""
        self._refusal = error
        if self._is_answered:
            self._reply(error)
        elif self._reading is _Reading.BODY:  # of the newest request, which will not end
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started or self.pipeline:
                self.transport.close()
            else:
                self._reply(error)

    def _reply(self, error: PlumblineError) -> None:
        body = error_body(error).encode()
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
            f"x-request-id: {new_id('req')}\r\nx-should-retry: false\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.write_eof()
        self._linger()

    def _linger(self) -> None:
        """Closing with unread bytes would reset the connection, and the reply would be lost."""
        self._disarm()
        self._is_lingering = True
        self._deadline = self.loop.call_later(LINGER_S, self.transport.close)

    def _disarm(self) -> None:
        self._is_lingering = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _is_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
