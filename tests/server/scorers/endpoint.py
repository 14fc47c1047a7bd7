"""A small HTTP server that answers every POST as the test says, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from reward.types import Candidate, Image, Message, Prompt
from server.engine.launcher import LOOPBACK, free_port

IMAGE = Image("1" * 64, "image/png", b"png")
PROMPT = Prompt((Message("user", (IMAGE, "What is it?")),))


def answers(*texts: str) -> list[Candidate]:
    return [Candidate(place, "a", text, (1,), (-1.0,), "stop") for place, text in enumerate(texts)]


@dataclass
class Endpoint:
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0


Reply = Callable[[dict[str, Any]], Any]
"""The request's JSON → the reply's: JSON, or a whole response."""


@asynccontextmanager
async def endpoint_that(reply: Reply, *, delay_s: float = 0.0) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()

    async def handler(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        endpoint.bodies.append(body)
        endpoint.paths.append(request.path)
        endpoint.headers.append(dict(request.headers))
        endpoint.at_once += 1
        endpoint.most_at_once = max(endpoint.most_at_once, endpoint.at_once)
        try:
            await asyncio.sleep(delay_s)
            content = reply(body)
            if isinstance(content, Awaitable):
                content = await content
        finally:
            endpoint.at_once -= 1
        return content if isinstance(content, web.StreamResponse) else web.Response(body=json.dumps(content).encode())

    app = web.Application(client_max_size=2**30)
    app.router.add_post("/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, LOOPBACK, port).start()
    endpoint.url = f"http://{LOOPBACK}:{port}"
    try:
        yield endpoint
    finally:
        await runner.cleanup()


def verdict(content: str, finish_reason: str = "stop") -> dict[str, Any]:
    """A chat endpoint's reply."""
    return {"choices": [{"index": 0, "message": {"content": content}, "finish_reason": finish_reason}]}
