"""The Open WebUI function against the real service, with a stand-in for Open WebUI: its chunks, its ratings."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, select

from server.store import schema
from tests.api.served import Served, served

FILE = Path(__file__).resolve().parent.parent.parent / "examples" / "open_webui" / "plumbline_thumbs.py"


def load() -> Any:
    """From its file, as Open WebUI loads what was pasted."""
    spec = importlib.util.spec_from_file_location("plumbline_thumbs", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["plumbline_thumbs"] = module
    spec.loader.exec_module(module)
    return module


thumbs = load()
ANSWER = thumbs.Answer("cmpl-1", "token", "ann")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("webui")) as one:
        yield one


class Table(thumbs.Filter):  # type: ignore[misc]
    """The function with ratings of its own; `every_s` is long, so nothing is sent but when the test says so."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.valves = self.Valves(url=url, every_s=3600)
        self.ratings: list[Any] = []

    async def ratings_of(self, user_id: str) -> list[Any]:
        return [one for one in self.ratings if one.user_id == user_id]


def rating(message: str, value: object, *, at: int = 1, **data: Any) -> SimpleNamespace:
    """A row as Open WebUI keeps it."""
    meta = {"message_id": message, "chat_id": "c"}
    return SimpleNamespace(id=f"r-{message}", user_id="ann", meta=meta, data={"rating": value, **data}, updated_at=at)


async def answered(function: Any, server: Served, message: str) -> str:
    """Stream an answer through the function, as Open WebUI does; the completion's id."""
    body = {"model": "default", "messages": [{"role": "user", "content": "What?"}], "stream": True, "user": "ann"}
    headers = {"authorization": "Bearer default-app"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=30) as client:
        reply = await client.post("/v1/chat/completions", json=body)
    chunks = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: {")]
    assert len(chunks) > 1
    for chunk in map(json.loads, chunks):
        assert await function.stream(dict(chunk), {"message_id": message}, {"id": "ann"}) == chunk
    return str(json.loads(chunks[0])["id"])


def kept(server: Served, completion: str) -> list[dict[str, Any]]:
    table = schema.signals

    def look(connection: Connection) -> list[dict[str, Any]]:
        found = connection.execute(
            select(table.c.payload).where(table.c.group_id == completion).order_by(table.c.created_at)
        ).scalars()
        return [one if isinstance(one, dict) else json.loads(one) for one in found]

    return server.run(server.services.database.read(look))


@pytest.mark.parametrize(
    ("data", "body"),
    [
        ({"rating": 1}, {"rating": "up"}),
        (
            {"rating": "-1", "reason": "not_factual", "comment": " no "},
            {"rating": "down", "comment": "no", "labels": ["not_factual"]},
        ),
        ({"rating": None}, None),
        ({"rating": 0}, None),
        (
            {"rating": 1, "comment": "x" * 5000, "reason": "y" * 99},
            {"rating": "up", "comment": "x" * 4000, "labels": ["y" * 64]},
        ),
    ],
)  # fmt: skip
def test_a_rating_becomes_feedback(data: dict[str, Any], body: dict[str, Any] | None) -> None:
    """Within the bounds of the API; what says neither up nor down says nothing."""
    assert thumbs.body_of(ANSWER, data) == (None if body is None else {"completion_id": "cmpl-1", **body})


@pytest.mark.parametrize(
    "event", [{}, {"id": "c"}, {"plumbline": {}}, {"id": "c", "plumbline": {"feedback_token": None}}]
)
def test_chunks_that_complete_nothing_are_passed(event: dict[str, Any]) -> None:
    assert thumbs.answer_of(event, "ann") is None


async def test_thumbs_reach_the_server_once(server: Served) -> None:
    """New ones and changed ones; those on other models' answers are nobody's business here."""
    function = Table(server.url)
    completion = await answered(function, server, "m-1")
    function.ratings = [rating("m-1", 1, comment="good"), rating("m-other", -1)]
    assert [await function.forward_once() for _ in range(2)] == [1, 0]
    assert [(one["rating"], one["comment"]) for one in kept(server, completion)] == [(1.0, "good")]
    function.ratings = [rating("m-1", -1, at=2)]
    assert await function.forward_once() == 1
    assert kept(server, completion)[-1]["rating"] == -1.0
    function._task.cancel()


async def test_what_does_not_arrive_is_sent_again(server: Served) -> None:
    """After the server was away; a refusal is not repeated."""
    function = Table("http://127.0.0.1:9")
    await answered(function, server, "m-2")
    function.ratings = [rating("m-2", 1)]
    with pytest.raises(httpx.ConnectError):
        await function.forward_once()
    function.valves.url = server.url
    assert await function.forward_once() == 1
    function._answers["m-3"] = thumbs.Answer("cmpl-nobody", "no token", "ann")
    function.ratings = [rating("m-3", 1)]
    assert [await function.forward_once() for _ in range(2)] == [0, 0]
    assert "r-m-3" in function._sent
    function._task.cancel()


def test_what_is_remembered_is_bounded() -> None:
    """The oldest goes first."""
    function = Table("http://x")
    for number in range(thumbs.MOST_ANSWERS + 5):
        thumbs._remember(function._answers, str(number), ANSWER)
    assert len(function._answers) == thumbs.MOST_ANSWERS and "0" not in function._answers
