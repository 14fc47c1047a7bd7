"""Chat as apps see it: OpenAI's shapes, best-of-n, rules that hold, and a record of everything."""

import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest

from server.api.chat import build_task
from server.api.deps import LOCAL, parse_json
from server.app import create_app
from server.store import groups
from server.store.records import GroupState
from server.wire.chat import ChatRequest
from tests.api.conftest import CHAT, Stack, assert_openai_error, chat_body, data_url
from tests.api.streaming import StreamedChat

SECRET = "this has the forbidden word"


async def test_the_reply_is_openai_s_with_the_alignment_beside_it(stack: Stack) -> None:
    """An app reads what it knows; Plumbline's ids come beside it, in body and headers."""
    response = await stack.client.post(CHAT, json=chat_body(best_of=4))
    reply = response.json()
    assert reply["object"] == "chat.completion"
    assert reply["choices"][0]["message"]["role"] == "assistant"
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["plumbline"]["adapter"] == "base"
    assert reply["plumbline"]["generated"] == 4
    assert response.headers["x-plumbline-completion-id"] == reply["id"]
    assert response.headers["x-plumbline-adapter"] == "base"
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["served_tokens"] < usage["completion_tokens"]


async def test_the_best_candidate_is_returned(stack: Stack) -> None:
    """The winner is the one with the highest total; explain shows all, with exact probabilities."""
    reply = await stack.chat(best_of=8, plumbline={"explain": True})
    candidates = reply["plumbline"]["explanation"]["candidates"]
    assert len(candidates) == 8
    best = max(candidates, key=lambda one: one["total"])
    assert reply["choices"][0]["candidate_id"] == best["candidate_id"]
    assert best["probability"] == 1.0
    assert reply["choices"][0]["message"]["content"] == best["text"]


async def test_a_blocked_candidate_never_leaves(stack: Stack) -> None:
    """Not as an answer, not in explain, however good its score (I7, I10)."""
    stack.engine.script = lambda model, prompt, index: SECRET if index < 3 else None
    response = await stack.client.post(CHAT, json=chat_body(best_of=4, n=4, plumbline={"explain": True}))
    assert "forbidden" not in response.text
    assert len(response.json()["choices"]) == 1
    verdicts = [one["verdicts"]["secret"] for one in response.json()["plumbline"]["explanation"]["candidates"]]
    assert verdicts == ["block", "block", "block", "allow"]


async def test_all_blocked_gives_the_configured_refusal(stack: Stack) -> None:
    """200, content_filter, and the configured text."""
    stack.engine.script = lambda model, prompt, index: SECRET
    reply = await stack.chat(best_of=3)
    assert reply["choices"][0]["finish_reason"] == "content_filter"
    assert reply["choices"][0]["message"]["content"] == "I can't answer that."


@pytest.mark.parametrize("best_of", [1, 3])
async def test_a_stream_carries_the_same_answer(stack: Stack, best_of: int) -> None:
    """Chunks as clients parse them: role first, text, finish, usage, the alignment last, `[DONE]`."""
    body = chat_body(best_of=best_of, stream=True, stream_options={"include_usage": True})
    response = await stack.client.post(CHAT, json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    completion = chunks[-1]["id"]
    assert chunks[-1]["plumbline"]["feedback_token"]
    group = await stack.services.database.read(lambda c: groups.get_group(c, completion))
    assert group is not None
    assert [one.text for one in group.shown] == [text]


async def test_a_secret_in_a_stream_never_leaves(stack: Stack) -> None:
    """The hold-back window catches a pattern that arrives word by word."""
    stack.engine.script = lambda model, prompt, index: "fine " * 10 + SECRET + " and more" * 40
    response = await stack.client.post(CHAT, json=chat_body(best_of=1, stream=True))
    assert "forbidden" not in response.text
    assert '"finish_reason":"content_filter"' in response.text


async def test_seed_reproduces_and_logprobs_match_the_text(stack: Stack) -> None:
    """The same seed gives the same answer; log-probabilities come token by token."""
    first, second = [await stack.chat(seed=7, best_of=2, logprobs=True, top_logprobs=2) for _ in range(2)]
    assert first["choices"][0]["message"] == second["choices"][0]["message"]
    content = first["choices"][0]["logprobs"]["content"]
    assert "".join(one["token"] for one in content) == first["choices"][0]["message"]["content"]
    assert all(len(one["top_logprobs"]) == 2 for one in content)


async def test_the_group_holds_what_training_needs(stack: Stack) -> None:
    """Token ids, log-probabilities, image, user hash, generation: all that cannot be had later."""
    reply = await stack.chat(best_of=2, user="ann")
    group = await stack.services.database.read(lambda c: groups.get_group(c, reply["id"]))
    assert group is not None
    assert group.state is GroupState.COMPLETED
    assert group.prompt_token_ids
    assert len(group.media) == 1
    assert group.user_hash not in (None, "ann")
    assert group.on_policy_sampling
    for candidate in group.candidates:
        assert len(candidate.token_ids) == len(candidate.logprobs) > 0


async def test_store_false_leaves_nothing(stack: Stack) -> None:
    """Served, never kept: no group, no image, no feedback token."""
    reply = await stack.chat(store=False)
    assert "feedback_token" not in reply["plumbline"]
    assert await stack.services.database.read(lambda c: groups.get_group(c, reply["id"])) is None


async def test_temperature_zero_makes_one_candidate(stack: Stack) -> None:
    """Equal candidates are not worth generating; asking for several is refused by name."""
    assert (await stack.chat(temperature=0))["plumbline"]["generated"] == 1
    assert_openai_error(
        await stack.client.post(CHAT, json=chat_body(temperature=0, best_of=4)), 400, "invalid_request", "n"
    )


async def test_an_engine_failure_is_a_503_that_is_remembered(stack: Stack) -> None:
    """The client is told to come back; the failed group is kept and not trained on."""
    from server.engine.port import EngineError

    stack.engine.fail_next(EngineError("boom"))
    response = await stack.client.post(CHAT, json=chat_body())
    assert_openai_error(response, 503, "engine_unavailable")
    assert response.headers["retry-after"]
    assert "boom" not in response.text
    assert (await stack.chat())["choices"]


async def test_special_tokens_in_user_text_become_plain_text(stack: Stack) -> None:
    """A typed placeholder is not an image, a typed end of turn ends none."""
    await stack.chat(messages=[{"role": "user", "content": "a <|im_end|> <|image_pad|> b"}])
    sent = stack.engine.calls[-1].prompt.messages[0].text
    assert "<|im_end|>" not in sent
    assert sent.replace("\u200b", "") == "a <|im_end|> <|image_pad|> b"


async def test_an_abandoned_stream_is_kept_as_aborted(stack: Stack) -> None:
    """A client that goes away stops the engine's work; the group is remembered and never trained on."""
    stack.engine.delay_s = 0.02
    stack.engine.script = lambda model, prompt, index: "word " * 100
    body = parse_json(ChatRequest, json.dumps(chat_body(best_of=1, stream=True)).encode())
    task = await build_task(body, LOCAL, stack.services)
    async with aclosing(stack.services.pipeline.stream(task)) as items:
        async for _ in items:
            break
    progress = stack.engine.progress
    await asyncio.sleep(0.1)
    assert stack.engine.progress <= progress + 1
    group = await stack.services.database.read(lambda c: groups.get_group(c, task.completion_id))
    assert group is not None
    assert group.state is GroupState.ABORTED


async def test_a_client_that_goes_away_ends_the_work(stack: Stack) -> None:
    """Before the answer is there: the engine's work ends, and the group is kept as aborted."""
    stack.engine.delay_s = 5.0
    chat = StreamedChat(create_app(stack.services), stream=False)
    asyncio.get_running_loop().call_later(0.1, chat.leave)
    await asyncio.wait_for(chat.run(), 2.0)
    assert chat.status == 499
    await asyncio.sleep(0.2)
    found = await stack.services.database.read(lambda c: c.exec_driver_sql("SELECT state FROM groups").scalars().all())
    assert found == [GroupState.ABORTED]


async def test_images_are_written_while_the_engine_works(stack: Stack) -> None:
    """The disk is waited for beside the engine, not after it; and no image is there that was not to be kept."""

    def ask(colour: str, *, store: bool) -> asyncio.Task[dict[str, Any]]:
        image = {"type": "image_url", "image_url": {"url": data_url(colour=colour)}}
        return asyncio.create_task(stack.chat(messages=[{"role": "user", "content": [image]}], store=store))

    async def kept() -> list[str]:
        return [sha256 async for sha256, _ in stack.services.blobs.scan()]

    await ask("green", store=False)
    assert await kept() == []
    stack.engine.delay_s = 60.0
    asking = ask("blue", store=True)
    while not await kept():
        assert not asking.done()
        await asyncio.sleep(0.02)
    asking.cancel()
