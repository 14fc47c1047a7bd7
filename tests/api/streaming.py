"""A chat over ASGI, whose bytes are seen as they leave (httpx's ASGI transport holds them back to the end)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastapi import FastAPI

from tests.api.conftest import CHAT, chat_body


class StreamedChat:
    """One client: `completion` is known with the first bytes, `run` ends with the stream, `leave` hangs up."""

    def __init__(self, app: FastAPI, headers: dict[str, str] | None = None, **changes: Any) -> None:
        self._app = app
        self._body = json.dumps(chat_body(**{"stream": True, **changes})).encode()
        self._headers = {"host": "localhost", "content-type": "application/json", **(headers or {})}
        self._is_sent = False
        self._gone = asyncio.Event()
        self.completion: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.text = ""

    async def run(self) -> str:
        headers = [(name.encode(), value.encode()) for name, value in self._headers.items()]
        scope = {"type": "http", "method": "POST", "path": CHAT, "query_string": b"", "headers": headers}
        await self._app(scope, self._receive, self._send)
        return self.text

    def leave(self) -> None:
        self._gone.set()

    async def _receive(self) -> dict[str, Any]:
        if not self._is_sent:
            self._is_sent = True
            return {"type": "http.request", "body": self._body}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.completion.set_result(dict(message["headers"]).get(b"x-plumbline-completion-id", b"").decode())
        self.text += message.get("body", b"").decode()
