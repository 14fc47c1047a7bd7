"""The HTTP client against a server that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from reward.types import Message, Prompt
from server.engine.client import VllmEngine
from server.engine.launcher import LOOPBACK, free_port
from server.engine.port import EngineError, EngineUnreachable, Sampling
from tests.server.engine.waiting import until

PROMPT = Prompt((Message("user", ("What is it?",)),))
ONE_TOKEN = {"content": [{"token": "a", "logprob": -1.0, "top_logprobs": []}]}
REPLY = {
    "prompt_token_ids": [1, 2],
    "choices": [
        {"index": 0, "message": {"content": "a"}, "token_ids": [7], "logprobs": ONE_TOKEN, "finish_reason": "stop"}
    ],
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def engine_that(handler: Handler, **options: Any) -> AsyncIterator[VllmEngine]:
    """A client of a server that answers every POST in the given way."""
    app = web.Application(client_max_size=2**30)
    app.router.add_post("/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, LOOPBACK, port).start()
    engine = VllmEngine(f"http://{LOOPBACK}:{port}/", "base", **options)
    try:
        yield engine
    finally:
        await engine.close()
        await runner.cleanup()


def event(text: str, reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "token_ids": [7], "logprobs": ONE_TOKEN, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


def streaming(*pieces: bytes, then_hang: bool = False) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0.002)
        if then_hang:
            await asyncio.sleep(600)
        return response

    return handler


def answering(status: int, body: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=body)

    return handler


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(600)
    return web.Response()


async def drop(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def failure(engine: VllmEngine) -> EngineError:
    with pytest.raises(EngineError) as caught:
        await engine.generate("base", PROMPT, 1, Sampling(max_tokens=4))
    return caught.value


@pytest.mark.parametrize(
    ("handler", "retryable"),
    [
        (hang, True),
        (drop, True),
        (answering(500, "Internal Server Error"), True),
        (answering(503, '{"error": {"message": "busy"}}'), True),
        (answering(400, '{"error": {"message": "bad", "code": 400}}'), False),
        (answering(404, "<html>no such page</html>"), False),
        (answering(200, "<html>a proxy's page</html>"), True),
        (answering(200, "[]"), True),
        (answering(200, "{}"), True),
    ],
)
async def test_every_failure_is_an_engine_error(handler: Handler, retryable: bool) -> None:
    """Time-out, closed connection, error statuses, pages that are no answer: and whether to try again."""
    async with engine_that(handler, timeout_s=0.3, probe_timeout_s=0.3) as engine:
        assert (await failure(engine)).retryable is retryable
        assert not await engine.is_ready()


async def test_an_engine_that_is_not_there_is_an_engine_error() -> None:
    """Nobody listens: fail at once, and not ready."""
    engine = VllmEngine(f"http://{LOOPBACK}:{free_port()}", "base")
    assert (await failure(engine)).retryable
    with pytest.raises(EngineError):
        await engine.version()
    assert not await engine.is_ready()
    await engine.close()


async def test_a_probe_has_a_deadline_of_its_own() -> None:
    """A hanging engine is found out long before a request's time-out."""
    async with engine_that(hang, timeout_s=600, probe_timeout_s=0.1) as engine:
        async with asyncio.timeout(10):
            assert not await engine.is_ready()


async def test_a_probe_is_a_generated_token() -> None:
    """One token of the base model, sampled."""
    bodies: list[dict[str, Any]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        return web.json_response(REPLY)

    async with engine_that(handler) as engine:
        assert await engine.is_ready()
    assert [(body["model"], body["max_tokens"], body["temperature"]) for body in bodies] == [("base", 1, 1.0)]


async def test_connections_are_bounded() -> None:
    """More calls than connections wait for one; none is lost."""
    now = most = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        return web.json_response(REPLY)

    async with engine_that(handler, max_connections=3) as engine:
        calls = [engine.generate("base", PROMPT, 1, Sampling(max_tokens=1)) for _ in range(20)]
        assert len(await asyncio.gather(*calls)) == 20
    assert most == 3


async def test_a_cancelled_call_closes_its_connection() -> None:
    """The server sees it at once, and vLLM aborts the generation."""
    seen, gone = asyncio.Event(), asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.set()
        await until(lambda: request.transport is None or request.transport.is_closing())
        gone.set()
        return web.Response()

    async with engine_that(handler) as engine:
        task = asyncio.create_task(engine.generate("base", PROMPT, 1, Sampling(max_tokens=4)))
        await asyncio.wait_for(seen.wait(), 10)
        task.cancel()
        await asyncio.wait_for(gone.wait(), 10)
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_stream_in_odd_pieces_is_read() -> None:
    """Pieces end anywhere; the opening event's prompt comes with the first text."""
    opening = (
        b'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "prompt_token_ids": [1]}\n\n'
    )
    whole = opening + event("a r") + event("ed", "stop") + b'data: {"choices": [], "usage": {}}\n\ndata: [DONE]\n\n'
    pieces = [whole[start : start + 11] for start in range(0, len(whole), 11)]
    async with engine_that(streaming(*pieces)) as engine:
        deltas = [delta async for delta in engine.stream("base", PROMPT, Sampling(max_tokens=4))]
    assert [delta.text for delta in deltas] == ["a r", "ed"]
    assert [delta.prompt_token_ids for delta in deltas] == [(1,), ()]
    assert [delta.finish_reason for delta in deltas] == [None, "stop"]


@pytest.mark.parametrize(
    "handler",
    [
        streaming(event("a")),
        streaming(event("a"), b"data: [DONE]\n\n"),
        streaming(event("a"), b'data: {"error": {"message": "engine died", "code": 500}}\n\n'),
        streaming(event("a"), b"data: {broken\n\n"),
        streaming(event("a"), then_hang=True),
        answering(500, "Internal Server Error"),
    ],
)
async def test_a_stream_that_breaks_off_is_an_engine_error(handler: Handler) -> None:
    """Without a reason at its end, with an error in the middle, hanging: never a short answer that looks whole."""
    async with engine_that(handler, timeout_s=0.5) as engine:
        with pytest.raises(EngineError) as caught:
            [delta async for delta in engine.stream("base", PROMPT, Sampling(max_tokens=4))]
        assert caught.value.retryable


async def test_a_stream_left_early_closes_its_connection() -> None:
    """The rest is not generated."""
    gone = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(event("a"))
                await asyncio.sleep(0.01)
        except ConnectionError:
            gone.set()
            raise

    async with engine_that(handler) as engine:
        stream = engine.stream("base", PROMPT, Sampling(max_tokens=4))
        assert (await anext(stream)).text == "a"
        await stream.aclose()
        await asyncio.wait_for(gone.wait(), 10)


def scoring(conversation: list[int], encodings: dict[str, list[int]]) -> Handler:
    """An engine with the given encodings: of the scored conversation, of a bare answer, of the prompt."""

    async def handler(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if request.path == "/tokenize":
            return web.json_response({"tokens": encodings["answer" if "prompt" in body else "prompt"]})
        positions = [None, *({str(token): {"logprob": -float(token)}} for token in conversation[1:])]
        return web.json_response({"prompt_token_ids": conversation, "prompt_logprobs": positions})

    return handler


@pytest.mark.parametrize(
    ("answer", "prompt", "expected"),
    [
        ([7, 8], [1, 2], (7, 8)),
        ([7, 8], [1, 2, 99], (7, 8)),  # a template that closes the prompt otherwise: the bare encoding decides
        ([70, 8], [1, 2, 3], (7, 8)),  # a tokenizer that encodes a first word otherwise: the prompt decides
        ([], [1, 2, 3], (7, 8)),
    ],
)
async def test_the_answers_tokens_are_found(answer: list[int], prompt: list[int], expected: tuple[int, ...]) -> None:
    """By the bare answer's encoding, else by the prompt's."""
    async with engine_that(scoring([1, 2, 3, 7, 8], {"answer": answer, "prompt": prompt})) as engine:
        scored = await engine.score("base", PROMPT, "an answer")
    assert scored.token_ids == expected
    assert scored.total == -15.0


async def test_an_answer_that_cannot_be_located_is_refused() -> None:
    """Rather no score than one of other tokens."""
    async with engine_that(scoring([1, 2, 3, 7, 8], {"answer": [9], "prompt": [1, 4]})) as engine:
        with pytest.raises(EngineError) as caught:
            await engine.score("base", PROMPT, "an answer")
        assert not caught.value.retryable


@pytest.mark.parametrize(("status", "is_fine"), [(200, True), (404, True), (400, False), (500, False)])
async def test_unloading_what_is_not_loaded_is_no_error(status: int, is_fine: bool) -> None:
    """The engine answers in plain text; anything but "done" and "unknown" is told."""
    async with engine_that(answering(status, "Success: removed")) as engine:
        if is_fine:
            await engine.unload("a00001-000000000000")
            return
        with pytest.raises(EngineError, match=str(status)):
            await engine.unload("a00001-000000000000")


async def test_a_lost_connection_is_told_from_other_failures() -> None:
    """What never answers is slow, what breaks off or refuses is gone."""
    gone = VllmEngine("http://127.0.0.1:9", "base")
    with pytest.raises(EngineUnreachable):
        await gone.generate("base", PROMPT, 1, Sampling(max_tokens=1))
    await gone.close()
    async with engine_that(drop) as engine:
        with pytest.raises(EngineUnreachable):
            await engine.generate("base", PROMPT, 1, Sampling(max_tokens=1))
    async with engine_that(hang, timeout_s=0.1) as engine:
        with pytest.raises(EngineError) as slow:
            await engine.generate("base", PROMPT, 1, Sampling(max_tokens=1))
        assert not isinstance(slow.value, EngineUnreachable)


async def test_readiness_asks_the_adapter_that_must_not_be_evicted() -> None:
    """Base first, then it; without one, base alone."""
    asked: list[str] = []

    async def note(request: web.Request) -> web.StreamResponse:
        asked.append((await request.json())["model"])
        return web.json_response(REPLY)

    async with engine_that(note, kept_adapter=lambda: "kept") as engine:
        assert await engine.is_ready()
    async with engine_that(note) as engine:
        assert await engine.is_ready()
    assert asked == ["base", "kept", "base"]
