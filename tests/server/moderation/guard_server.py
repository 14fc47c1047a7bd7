"""A guard model's endpoint in this process: says what a test wants it to say, and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

Say = Callable[[str], str]
"""What was asked → what the model says."""


@dataclass
class GuardServer:
    say: Say = lambda asked: "safe"
    status: int = 200
    delay_s: float = 0.0
    body: bytes | None = None
    """In place of a completion."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    url: str = ""

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body)
        self.keys.append(request.headers.get("authorization"))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.at_once -= 1
        if self.body is not None:
            return web.Response(body=self.body, status=self.status)
        text = self.say(words_of(body))
        choice = {"text": text} if "prompt" in body else {"message": {"role": "assistant", "content": text}}
        return web.json_response({"choices": [choice]}, status=self.status)


def words_of(body: dict[str, Any]) -> str:
    """The part of a request that somebody said."""
    if "prompt" in body:
        return str(body["prompt"])
    return " ".join(
        part["text"] for message in body["messages"] for part in message["content"] if part["type"] == "text"
    )


@asynccontextmanager
async def guard_server(**settings: Any) -> AsyncGenerator[GuardServer]:
    served = GuardServer(**settings)
    application = web.Application()
    application.router.add_post("/v1/{path:.*}", served.handle)
    server = TestServer(application)
    await server.start_server()
    served.url = str(server.make_url("/v1"))
    try:
        yield served
    finally:
        await server.close()
