"""Streams as apps see them: the chunk sequence, what the rules hold back, heartbeats, and clients that go away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from reward.types import Prompt
from server.api.paced import HEARTBEAT, Paced
from server.config import RuleConfig
from server.config.safety import SecondWaveConfig
from server.engine.port import Delta, EngineError, Sampling
from server.store.records import GroupState
from tests.api.conftest import CHAT, Opener, Stack, chat_body, config_for
from tests.api.saying import group_of, taught
from tests.api.streaming import StreamedChat

CODE = "access code is 4821"


def script_of(text: str) -> Any:
    return lambda model, prompt, index: text


async def streamed(stack: Stack, **changes: Any) -> tuple[list[dict[str, Any]], str]:
    """The chunks, and how the stream ended."""
    response = await stack.client.post(CHAT, json=chat_body(stream=True, **changes))
    assert response.status_code == 200, response.text
    events = [line[6:] for line in response.text.split("\n\n") if line.startswith("data: ")]
    return [json.loads(event) for event in events if event != "[DONE]"], events[-1]


def text_of(chunks: list[dict[str, Any]], index: int = 0) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for chunk in chunks
        for choice in chunk.get("choices", [])
        if choice["index"] == index
    )


@pytest.mark.parametrize("best_of", [1, 3])
@pytest.mark.parametrize("include_usage", [True, False])
async def test_the_chunk_sequence(stack: Stack, best_of: int, include_usage: bool) -> None:
    """Role; text; finish reason with an empty delta; usage alone where it was asked for; `[DONE]`."""
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    chunks, end = await streamed(stack, best_of=best_of, **options)
    assert end == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    opening, *texts = [chunk for chunk in chunks if chunk["choices"]]
    closing = texts.pop()
    assert opening["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert opening["choices"][0]["finish_reason"] is None
    assert all(set(chunk["choices"][0]["delta"]) == {"content"} for chunk in texts)
    assert closing["choices"][0]["delta"] == {}
    assert closing["choices"][0]["finish_reason"] == "stop"
    assert ("usage" in chunks[-1]) is include_usage
    assert chunks[-1]["choices"] == [] or not include_usage
    assert all("usage" not in chunk for chunk in chunks[:-1])
    assert chunks[-1]["plumbline"]["feedback_token"]


async def test_each_choice_has_chunks_of_its_own(stack: Stack) -> None:
    """Clients that read the first choice of a chunk miss none."""
    chunks, _ = await streamed(stack, n=2, best_of=4, stream_options={"include_usage": True})
    assert all(len(chunk["choices"]) <= 1 for chunk in chunks)
    group = await group_of(stack, chunks[0]["id"])
    assert {text_of(chunks, 0), text_of(chunks, 1)} == {one.text for one in group.shown}
    finished = [chunk["choices"][0] for chunk in chunks if chunk["choices"] and chunk["choices"][0]["finish_reason"]]
    assert sorted(choice["index"] for choice in finished) == [0, 1]
    served = sum(len(one.token_ids) for one in group.shown)
    generated = sum(len(one.token_ids) for one in group.candidates)
    assert chunks[-1]["usage"]["served_tokens"] == served
    assert chunks[-1]["usage"]["completion_tokens"] == generated > served


@pytest.mark.parametrize("best_of", [1, 3])
async def test_log_probabilities_come_with_their_text(stack: Stack, best_of: int) -> None:
    """All tokens of the answer, each once, none ahead of its text."""
    stack.engine.script = script_of("one two three four five six")
    chunks, _ = await streamed(stack, best_of=best_of, logprobs=True, top_logprobs=2)
    said, tokens = "", []
    for chunk in chunks:
        said += chunk["choices"][0]["delta"].get("content") or ""
        tokens += (chunk["choices"][0]["logprobs"] or {"content": []})["content"]
        assert len("".join(one["token"] for one in tokens)) <= len(said)
    assert "".join(one["token"] for one in tokens) == said == "one two three four five six"
    assert len(tokens) == len((await group_of(stack, chunks[0]["id"])).shown[0].token_ids)


async def with_rule(open_stack: Opener, directory: Path, pattern: str) -> Stack:
    rule = RuleConfig(name="code", kind="pattern", pattern=pattern)
    return await open_stack(config_for(directory, rules=(rule,), second_wave=SecondWaveConfig(enabled=False)))


class Letters:
    """A script for the fake engine's stream: the text letter by letter, as the worst tokenizer would."""

    def __init__(self, stack: Stack, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        async def stream(model: str, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Delta]:
            for position, letter in enumerate(text):
                yield Delta(letter, finish_reason="stop" if position == len(text) - 1 else None)

        monkeypatch.setattr(type(stack.engine), "stream", lambda engine, *args: stream(*args))


@pytest.mark.parametrize(
    "pattern",
    [
        r"access code is \d+",
        r"access .{0,120} \d{4}",
        r"access\b.*\d{4}",  # no bound: the whole answer is held back
    ],
)
async def test_no_letter_of_a_secret_leaves_however_it_is_split(
    open_stack: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    """Also where a match is longer than any fixed window; what stands before it may leave."""
    stack = await with_rule(open_stack, tmp_path, pattern)
    secret = CODE if "code is" in pattern else "access " + "is granted by saying this " * 4 + "1234"
    Letters(stack, "It is fine. " * 30 + secret + " and more" * 20, monkeypatch)
    chunks, end = await streamed(stack, best_of=1)
    assert end == "[DONE]"
    assert "acc" not in text_of(chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "content_filter"
    group = await group_of(stack, chunks[0]["id"])
    assert group.candidates[0].is_blocked
    assert bool(text_of(chunks)) is (".*" not in pattern) or text_of(chunks) == "I can't answer that."


async def test_a_harmless_answer_arrives_whole(
    open_stack: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held back is not lost, and text leaves before the answer ends."""
    stack = await with_rule(open_stack, tmp_path, r"access code is \d+")
    text = "There is no access code here, " * 10
    Letters(stack, text, monkeypatch)
    chunks, _ = await streamed(stack, best_of=1)
    assert text_of(chunks) == text
    assert len(chunks) > 100


@pytest.mark.parametrize("best_of", [1, 3])
async def test_heartbeats_while_there_is_nothing_to_say(open_stack: Opener, tmp_path: Path, best_of: int) -> None:
    """Comments keep the connection open before the first token too; clients skip them."""
    config = config_for(tmp_path)
    config = config.model_copy(update={"http": config.http.model_copy(update={"heartbeat_s": 0.02})})
    stack = await open_stack(config)
    stack.engine.delay_s = 0.15
    stack.engine.script = script_of("yes")
    response = await stack.client.post(CHAT, json=chat_body(best_of=best_of, stream=True))
    before, _, _ = response.text.partition("yes")
    assert before.count(HEARTBEAT) >= 3
    assert response.text.endswith("data: [DONE]\n\n")


async def test_pacing_ends_its_source() -> None:
    """Closing waits until the source has cleaned up; one that never began is closed too."""
    steps: list[str] = []

    async def source() -> AsyncGenerator[str]:
        try:
            yield "a"
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            steps.append("cleaned up")

    paced = Paced(source(), 60.0)
    assert await anext(paced) == "a"
    await paced.aclose()
    assert steps == ["cleaned up"]
    await Paced(source(), 60.0).aclose()


@pytest.mark.parametrize("best_of", [1, 4])
@pytest.mark.parametrize("after_s", [0.0, 0.1])
async def test_a_client_that_goes_away_ends_the_work(stack: Stack, best_of: int, after_s: float) -> None:
    """Before and after the first token: the engine stops, the group is kept as aborted and teaches nothing (45)."""
    stack.engine.delay_s = 0.03 if best_of == 1 else 1.0
    stack.engine.script = script_of("word " * 200)
    chat = StreamedChat(stack.app, best_of=best_of)
    running = asyncio.create_task(chat.run())
    completion = await chat.completion
    await asyncio.sleep(after_s)
    chat.leave()
    await asyncio.wait_for(running, 2.0)
    progress = stack.engine.progress
    await asyncio.sleep(0.1)
    assert stack.engine.progress == progress
    await stack.services.in_flight.settled("default", completion)
    assert (await group_of(stack, completion)).state is GroupState.ABORTED
    said = await stack.client.post("/v1/feedback", json={"completion_id": completion, "rating": "up"})
    assert said.json()["trainable"] is False
    assert await taught(stack, completion) is None
    stack.engine.delay_s = 0.0
    assert (await stack.chat())["choices"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("best_of", [1, 3])
async def test_every_candidate_blocked(stack: Stack, stream: bool, best_of: int) -> None:
    """`content_filter` and the configured text; not one unsafe byte on the wire (47)."""
    stack.engine.script = script_of("the forbidden word")
    response = await stack.client.post(CHAT, json=chat_body(best_of=best_of, stream=stream))
    assert response.status_code == 200
    assert "forbidden" not in response.text
    assert '"finish_reason":"content_filter"' in response.text
    assert "I can't answer that." in response.text
    stack.engine.script = None
    assert (await stack.chat())["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("after", [0, 3])
async def test_an_engine_that_dies_mid_stream(stack: Stack, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """An event with the error object ends the stream, without `[DONE]`; the row says failed (48)."""

    async def dying(*_: object) -> AsyncGenerator[Delta]:
        for _ in range(after):
            yield Delta("word ")
        raise EngineError("the engine's stream ended early")

    with monkeypatch.context() as patch:
        patch.setattr(type(stack.engine), "stream", dying)
        chunks, end = await streamed(stack, best_of=1)
    error = json.loads(end)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == "engine_unavailable"
    assert "early" not in error["message"]
    assert (await group_of(stack, chunks[0]["id"])).state is GroupState.FAILED
    assert await taught(stack, chunks[0]["id"]) is None
    assert (await stack.chat())["choices"]


async def test_what_nobody_foresaw_ends_a_stream_in_the_one_shape(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No trace, no silence: an error event (I10, I11)."""

    async def broken(*_: object) -> AsyncGenerator[Delta]:
        yield Delta("word ")
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(type(stack.engine), "stream", broken)
    chunks, end = await streamed(stack, best_of=1)
    assert json.loads(end)["error"]["code"] == "internal_error"
    assert "secret" not in end
    assert (await group_of(stack, chunks[0]["id"])).state is GroupState.FAILED
