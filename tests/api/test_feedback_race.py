"""Feedback that comes before its answer is stored: it lands once, or gets a clear final answer.

`PLUMBLINE_RACES` sets how often twenty answers and their feedback race each other.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import func, select

from server.config import ChatConfig, HttpConfig
from server.engine.port import EngineError
from server.keys import hash_key
from server.store import feed, groups, keys, schema
from server.store.records import GroupState
from tests.api.conftest import CHAT, Opener, Stack, assert_openai_error, chat_body, config_for
from tests.api.streaming import StreamedChat
from tests.postgres_fixture import Cluster

RACES = int(os.environ.get("PLUMBLINE_RACES", "3"))
PAIRS = 20


async def rate(stack: Stack, completion: str, *, user: str = "ann", **headers: str) -> httpx.Response:
    body = {"completion_id": completion, "rating": "up", "user": user}
    return await stack.client.post("/v1/feedback", json=body, headers=headers)


async def early(stack: Stack, chat: StreamedChat, user: str = "ann") -> tuple[httpx.Response, str]:
    """Feedback sent when the first bytes of the answer are there; its reply, and the whole stream."""

    async def send() -> httpx.Response:
        return await rate(stack, await chat.completion, user=user)

    return tuple(await asyncio.gather(send(), chat.run()))


async def race(stack: Stack, number: int, user: str) -> tuple[str, httpx.Response]:
    """Every other answer is streamed, every other pair of them has several candidates."""
    best_of = (1, 1, 3, 3)[number % 4]
    if number % 2:
        chat = StreamedChat(stack.app, best_of=best_of, seed=None)
        response, _ = await early(stack, chat, user)
        return chat.completion.result(), response
    reply = await stack.chat(best_of=best_of, seed=None)
    return reply["id"], await rate(stack, reply["id"], user=user)


@pytest.mark.timeout(120 + 5 * RACES)
async def test_feedback_that_races_its_answer_lands_once(each_stack: Stack) -> None:
    """Twenty at a time, streamed or not: each is acknowledged, stands there once, and is told to the feed once."""
    each_stack.engine.delay_s = 0.001
    acknowledged: list[str] = []
    for again in range(RACES):
        done = await asyncio.gather(*(race(each_stack, number, f"user {again}") for number in range(PAIRS)))
        assert {response.status_code for _, response in done} == {200}
        assert all(response.json()["trainable"] for _, response in done)
        acknowledged += [completion for completion, _ in done]
    counted = select(schema.signals.c.group_id, func.count()).group_by(schema.signals.c.group_id)
    kept = await each_stack.services.database.read(lambda c: {row[0]: row[1] for row in c.execute(counted)})
    assert kept == dict.fromkeys(acknowledged, 1)
    head = await each_stack.services.database.read(lambda c: feed.head(c, "default"))
    assert head == RACES * PAIRS
    assert len(each_stack.services.in_flight) == 0


async def test_early_feedback_waits_for_the_commit_and_no_longer(stack: Stack) -> None:
    """It is answered when the answer is stored, while its stream is still being read."""
    stack.engine.delay_s = 0.01
    stack.engine.script = lambda model, prompt, index: "word " * 10
    chat = StreamedChat(stack.app, best_of=1)
    answering = asyncio.create_task(chat.run())
    response = await rate(stack, await chat.completion)
    assert response.status_code == 200
    group = await stack.services.database.read(lambda c: groups.get_group(c, chat.completion.result()))
    assert group is not None and group.state is GroupState.COMPLETED
    await answering


async def test_an_answer_that_is_not_kept_takes_no_feedback(stack: Stack) -> None:
    """`store: false`: not found, as soon as that is certain."""
    response, text = await early(stack, StreamedChat(stack.app, best_of=1, store=False))
    assert_openai_error(response, 404, "response_not_found", "completion_id")
    assert "[DONE]" in text


@pytest.mark.parametrize("best_of", [1, 3])
async def test_feedback_on_a_failed_answer_is_kept(stack: Stack, best_of: int) -> None:
    """The engine fails while the stream is open: 200, never trained on."""
    stack.engine.fail_next(EngineError("boom"))
    response, text = await early(stack, StreamedChat(stack.app, best_of=best_of))
    assert '"error"' in text
    assert response.status_code == 200, response.text
    assert response.json()["trainable"] is False
    again = await rate(stack, response.json()["completion_id"])
    assert (again.status_code, again.json()["trainable"]) == (200, False)


@pytest.mark.parametrize("best_of", [1, 3])
async def test_feedback_on_an_abandoned_answer_is_kept(stack: Stack, best_of: int) -> None:
    """The client hangs up and says why: 200, never trained on, whatever is said."""
    stack.engine.delay_s = 0.05
    stack.engine.script = lambda model, prompt, index: "word " * 50
    chat = StreamedChat(stack.app, best_of=best_of)
    answering = asyncio.create_task(chat.run())
    completion = await chat.completion
    await asyncio.sleep(0.02)
    body: dict[str, Any] = {"completion_id": completion, "comment": "too slow", "correction": "a better answer"}
    saying = asyncio.create_task(stack.client.post("/v1/feedback", json=body))
    await asyncio.sleep(0.02)
    assert not saying.done()
    chat.leave()
    await answering
    response = await asyncio.wait_for(saying, 5.0)
    assert response.status_code == 200, response.text
    assert response.json()["trainable"] is False
    group = await stack.services.database.read(lambda c: groups.get_group(c, completion))
    assert group is not None and group.state is GroupState.ABORTED
    assert await stack.services.database.read(lambda c: feed.head(c, "default")) == 0
    assert len(stack.services.in_flight) == 0


async def test_an_answer_that_is_refused_takes_no_feedback(stack: Stack) -> None:
    """A request that turns out to be too long leaves no answer."""
    long = [{"role": "user", "content": "word " * 5_000}]
    response, text = await early(stack, StreamedChat(stack.app, best_of=1, messages=long))
    assert "context_length_exceeded" in text
    assert_openai_error(response, 404, "response_not_found")


async def test_who_waits_too_long_is_told_to_come_back(open_stack: Opener, tmp_path: Path) -> None:
    """503 with Retry-After, never 404 or 409; what comes later lands."""
    config = config_for(tmp_path).model_copy(update={"chat": ChatConfig(feedback_wait_s=0.03)})
    stack = await open_stack(config)
    stack.engine.delay_s = 0.02
    stack.engine.script = lambda model, prompt, index: "word " * 10
    response, _ = await early(stack, chat := StreamedChat(stack.app, best_of=1))
    assert_openai_error(response, 503, "response_pending")
    assert int(response.headers["retry-after"]) > 0
    assert "x-should-retry" not in response.headers
    assert (await rate(stack, chat.completion.result())).status_code == 200


async def test_nobody_learns_of_another_tenant_s_answers(open_stack: Opener, tmp_path: Path) -> None:
    """Another's answer is unknown, while it is made (without waiting) and afterwards."""
    http = HttpConfig(metrics_port=0, require_keys=True)
    stack = await open_stack(config_for(tmp_path).model_copy(update={"http": http}))
    for tenant in ("mine", "theirs"):
        key = keys.KeyRecord(f"key-{tenant}", tenant, "app")
        await stack.services.database.write(lambda c, key=key: keys.add_key(c, key, hash_key(key.tenant), 0.0))
    stack.engine.delay_s = 0.02
    chat = StreamedChat(stack.app, {"authorization": "Bearer mine"}, best_of=1)
    answering = asyncio.create_task(chat.run())
    completion = await chat.completion
    during = await rate(stack, completion, authorization="Bearer theirs")
    assert not answering.done()
    await answering
    after = await rate(stack, completion, authorization="Bearer theirs")
    unknown = await rate(stack, "cmpl-none", authorization="Bearer theirs")
    for response in (during, after, unknown):
        assert_openai_error(response, 404, "response_not_found", "completion_id")
        assert response.json() == unknown.json()
    assert (await rate(stack, completion, authorization="Bearer mine")).status_code == 200


async def test_a_broken_off_answer_can_be_asked_again_at_once(stack: Stack) -> None:
    """`regenerate_of` names an answer that is just being given up: it waits until that is known."""
    stack.engine.delay_s = 0.02
    stack.engine.script = lambda model, prompt, index: "word " * 50
    chat = StreamedChat(stack.app, best_of=1)
    answering = asyncio.create_task(chat.run())
    completion = await chat.completion
    again = asyncio.create_task(stack.chat(best_of=1, plumbline={"regenerate_of": completion}))
    await asyncio.sleep(0.02)
    chat.leave()
    await answering
    stack.engine.delay_s = 0.0
    assert (await asyncio.wait_for(again, 5.0))["id"] != completion


@pytest.fixture
def shared_url(postgres: Cluster) -> Iterator[str]:
    url = postgres.create()
    yield url
    postgres.drop(url)


@pytest.fixture
async def servers(shared_url: str, open_stack: Opener, tmp_path: Path) -> list[Stack]:
    """Two servers on one PostgreSQL, behind a balancer that may send a client to either."""
    configs = [config_for(tmp_path / name, url=shared_url) for name in ("one", "two")]
    return [await open_stack(one.model_copy(update={"secret": SecretStr("shared")})) for one in configs]


async def test_early_feedback_at_another_server_is_told_to_come_back(servers: list[Stack]) -> None:
    """503 with Retry-After, never 404, while the answer may be under way; then it lands there too."""
    first, second = servers
    first.engine.delay_s = 0.02
    chat = StreamedChat(first.app, best_of=1)
    answering = asyncio.create_task(chat.run())
    completion = await chat.completion
    early = await rate(second, completion)
    assert not answering.done()
    assert_openai_error(early, 503, "response_pending")
    assert int(early.headers["retry-after"]) > 0
    again = await second.client.post(CHAT, json=chat_body(plumbline={"regenerate_of": completion}))
    assert_openai_error(again, 503, "response_pending")
    await answering
    assert (await rate(second, completion)).status_code == 200


async def test_what_no_server_will_store_is_unknown_at_each(servers: list[Stack]) -> None:
    """Invented ids, and answers that are not kept: 404 at once."""
    first, second = servers
    reply = await first.chat(best_of=1, store=False)
    for completion in (reply["id"], "cmpl-none", "cmpl-" + "0" * 32):
        assert_openai_error(await rate(second, completion), 404, "response_not_found", "completion_id")
