"""The HTTP connections of the public listener: what uvicorn leaves open is bounded here.

uvicorn on h11 refuses malformed requests, but it waits for ever for a request's headers, for the rest of a body after
an early reply, and for a client that does not read; and it answers what it refuses in plain text. Here:

- Headers must be complete in time, counted from the connection's opening or from their first byte: else 408.
- After a reply that came before the request's end the rest is read and dropped for a moment, so that the client can
  read the reply; then the connection is closed.
- A client that takes nothing of a reply is cut off.
- What h11 refuses (two hosts, a length that is no number, headers over the limit) gets the one error shape.

Bodies have their time in `server.api.middleware`, which sees how much of them has come.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.api.errors import error_body
from server.errors import BadRequest, HeadersTooLarge, PlumblineError, RequestTimeout
from server.ids import new_id

MAX_HEADER_BYTES: Final = 32 * 1024
LINGER_S: Final = 5.0


class Connection(H11Protocol):
    """One client's connection, with `headers_s` for its headers and `unread_s` for taking a piece of a reply."""

    def __init__(self, *arguments: Any, headers_s: float, unread_s: float, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._headers_s = headers_s
        self._unread_s = unread_s
        self._deadline: asyncio.TimerHandle | None = None
        self._is_lingering = False
        self._has_refused = False
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        if self._has_refused:
            return
        super().data_received(data)
        is_idle = self.conn.their_state is h11.IDLE
        if self._deadline is not None:
            if self.conn.their_state is not h11.SEND_BODY if self._is_lingering else not is_idle:
                self._disarm()
        elif is_idle and self.conn.trailing_data[0]:
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._is_read()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self._linger()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self._unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_read()

    def send_400_response(self, msg: str) -> None:
        """Called where h11 refuses what it reads."""
        refusal = sys.exc_info()[1]
        if isinstance(refusal, h11.RemoteProtocolError) and refusal.error_status_hint == HeadersTooLarge.status:
            self._refuse(HeadersTooLarge(f"The headers are larger than {MAX_HEADER_BYTES} bytes."))
        else:
            self._refuse(BadRequest("This is no valid HTTP request.", code="invalid_http"))

    def _expect_headers(self) -> None:
        self._is_lingering = False
        self._deadline = self.loop.call_later(self._headers_s, self._headers_are_late)

    def _headers_are_late(self) -> None:
        self._deadline = None
        if self.conn.trailing_data[0]:
            self._refuse(RequestTimeout("The headers did not arrive in time."))
        else:  # nothing was asked
            self.transport.close()

    def _refuse(self, error: PlumblineError) -> None:
        """Reply unless a reply has begun, and read no more of what comes."""
        self._has_refused = True
        if self.cycle is not None and not self.cycle.response_complete:  # its request did not end either
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.close()
            return
        headers = [
            (b"content-type", b"application/json"),
            (b"connection", b"close"),
            (b"x-request-id", new_id("req").encode()),
            (b"x-should-retry", b"false"),
        ]
        response = h11.Response(status_code=error.status, headers=headers)
        for event in (response, h11.Data(data=error_body(error).encode()), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.write_eof()
        self._linger()

    def _linger(self) -> None:
        """Closing with unread bytes would reset the connection, and the reply would be lost."""
        self._disarm()
        self._is_lingering = True
        self._deadline = self.loop.call_later(LINGER_S, self.transport.close)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _is_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
