"""No request can make new series: not by a name, a user, a route, a method, a header or a body."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import generate_latest

from server.metrics import Metrics
from tests.api.conftest import CHAT, Opener, Stack, config_for

REQUESTS = 10_000
HOSTILE = "hostile"
Case = tuple[str, str, Any]
"""Method, path and body."""


def chat(**changes: Any) -> Case:
    body = {"model": "default", "messages": [{"role": "user", "content": "Hi"}], "best_of": 1, "max_tokens": 2}
    return "POST", CHAT, body | changes


CASES: tuple[Callable[[str], Case], ...] = (
    lambda name: chat(user=name),
    lambda name: chat(model=name),
    lambda name: chat(model="../" * 40 + name),
    lambda name: chat(**{name: 1}),
    lambda name: ("GET", f"/{name}/{name}", None),
    lambda name: ("GET", f"/v1/adapters/{name}", None),
    lambda name: (name.upper()[:40], "/v1/models", None),
    lambda name: ("POST", "/v1/feedback", {"completion_id": name, "rating": "up"}),
    lambda name: ("POST", "/v1/feedback", {"completion_id": "c", "rating": "up", "labels": {name: name}}),
    lambda name: ("GET", f"/v1/training/feed?alias={name}", None),
    lambda name: ("POST", "/v1/training/heartbeat", {"alias": name, "token": 1, "metrics": {name: 1.0}}),
    lambda name: (
        "POST",
        "/v1/training/heartbeat",
        {"alias": "default", "token": 1, "metrics": {name: 1.0, "loss": 1.0}},
    ),
    lambda name: ("POST", "/v1/training/lease", {"alias": name, "owner": name}),
    lambda name: ("DELETE", f"/v1/users/{name}/data", None),
    lambda name: ("GET", f"/v1/media/{name}", None),
    lambda name: ("POST", CHAT, name),
)


def names() -> Iterator[str]:
    for number in range(REQUESTS):
        yield f'{HOSTILE}-{number}"}}\n# {chr(0x1F600 + number % 64)}'


async def send(stack: Stack, case: Case, name: str) -> int:
    """Straight to the application: what a client library would not send either."""
    method, path, body = case
    data = b"" if body is None else json.dumps(body).encode()
    address, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": address,
        "raw_path": address.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 1),
        "headers": [
            (b"host", b"localhost"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(data)).encode()),
            (b"x-request-id", name.encode()),
            (b"user-agent", name.encode()),
        ],
    }
    messages = [{"type": "http.request", "body": data, "more_body": False}]
    status = 0

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()  # the client stays
        return messages.pop()

    async def take(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    await stack.app(scope, receive, take)
    return status


def series(metrics: Metrics) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    return {
        (sample.name, frozenset(sample.labels.items()))
        for metric in metrics.registry.collect()
        for sample in metric.samples
    }


async def test_ten_thousand_hostile_requests_make_no_new_series(open_stack: Opener, tmp_path: Path) -> None:
    """After each kind of request has been seen three times, 10,000 with names of their own add not one series."""
    stack = await open_stack(config_for(tmp_path))
    all_names = names()
    assert (
        await send(stack, ("POST", "/v1/training/lease", {"alias": "default", "owner": "one", "ttl_s": 3600}), "")
        == 200
    )
    for _ in range(3):
        for case in CASES:
            name = next(all_names)
            await send(stack, case(name), name)
    before = series(stack.services.metrics)
    statuses: dict[int, int] = {}
    for number, name in enumerate(all_names):
        status = await send(stack, CASES[number % len(CASES)](name), name)
        statuses[status] = statuses.get(status, 0) + 1
    after = series(stack.services.metrics)
    assert after == before
    assert len(after) < 1000
    assert HOSTILE.encode() not in generate_latest(stack.services.metrics.registry).lower()
    assert {200, 400, 404, 405} <= set(statuses)
    assert not [status for status in statuses if status >= 500]
