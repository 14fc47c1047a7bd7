"""A guard model over HTTP: asked within bounds, remembered, and never taken at a word that it did not say."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from reward.policy import GuardDown, SafetyPolicy
from reward.types import Action, Message, Prompt
from server.moderation import GuardModel
from server.moderation.formats import LlamaGuard3, ShieldGemma
from tests.server.moderation.guard_server import guard_server

PROMPT = Prompt((Message("system", ("Be kind.",)), Message("user", ("How?",))))


def model(url: str, **settings: Any) -> GuardModel:
    settings = {"asked": LlamaGuard3(), "action": Action.BLOCK, "timeout_s": 2.0} | settings
    return GuardModel("guard", url=url, model="llama-guard", **settings)


async def test_a_guard_says_what_it_finds() -> None:
    """In the model's categories; the text itself is in no reason. Its key goes along."""
    async with guard_server(say=lambda asked: "unsafe\nS1" if "bomb" in asked else "safe") as server:
        guard = model(server.url, key="secret")
        verdict = await guard.check(PROMPT, "a bomb")
        assert (verdict.action, verdict.reason) == (Action.BLOCK, "the guard model finds S1")
        assert (await guard.check(PROMPT, "a rose")).action is Action.ALLOW
        assert server.asked[0]["model"] == "llama-guard"
        assert server.keys == ["Bearer secret"] * 2
        await guard.close()


async def test_every_turn_that_came_from_outside_is_read() -> None:
    """Of the input: what users and tools said, in any turn, and not what the app said."""
    turns = [Message("system", ("A",)), Message("user", ("B",)), Message("assistant", ("C",)), Message("user", ("D",))]
    async with guard_server(say=lambda asked: "unsafe\nS2" if "User: B" in asked else "safe") as server:
        guard = model(server.url)
        assert (await guard.check(Prompt(tuple(turns)), None)).action is Action.BLOCK
        assert len(server.asked) == 2
        await guard.close()


async def test_what_was_found_out_is_remembered() -> None:
    """The same text is asked about once; a failure is not remembered."""
    async with guard_server() as server:
        guard = model(server.url)
        server.status = 500
        with pytest.raises(ExceptionGroup):
            await guard.check(PROMPT, "a")
        server.status = 200
        for _ in range(3):
            await guard.check(PROMPT, "a")
        await guard.check(PROMPT, "b")
        assert len(server.asked) == 3
        await guard.close()


async def test_no_more_questions_at_once_than_allowed() -> None:
    """And those that wait have the same deadline."""
    async with guard_server(delay_s=0.02) as server:
        guard = model(server.url, max_concurrent=3, asked=ShieldGemma())
        server.say = lambda asked: "No"
        await asyncio.gather(*(guard.check(PROMPT, f"answer {number}") for number in range(5)))
        assert server.most_at_once == 3
        assert len(server.asked) == 20
        await guard.close()


FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("slow", {"delay_s": 1.0}),
    ("error", {"status": 500}),
    ("redirect", {"status": 302}),
    ("nonsense", {"say": lambda asked: "I am sure that this is fine."}),
    ("empty", {"say": lambda asked: ""}),
    ("no JSON", {"body": b"<html>safe</html>"}),
    ("another JSON", {"body": b'{"choices": []}'}),
    ("endless", {"body": b'{"choices": [{"text": "safe"}]}' + b" " * 1_000_000}),
]


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=[name for name, _ in FAULTS])
async def test_a_guard_that_finds_nothing_out_lets_nothing_through(name: str, fault: dict[str, Any]) -> None:
    """Safety fails closed (I7), in bounded time: the answer is blocked and marked, the request is put off."""
    async with guard_server(**fault) as server:
        guard = model(server.url, timeout_s=0.3)
        policy = SafetyPolicy(input_guards=(guard,), output_guards=(guard,))
        started = time.monotonic()
        reading = await policy.judge(PROMPT, "fine")
        assert [(one.action, one.has_failed) for one in reading.verdicts] == [(Action.BLOCK, True)]
        with pytest.raises(GuardDown):
            await policy.check_request(PROMPT)
        assert time.monotonic() - started < 2.0
        await guard.close()


async def test_a_guard_that_is_down() -> None:
    """Nobody listens there."""
    async with guard_server() as server:
        url = server.url
    guard = model(url)
    policy = SafetyPolicy(output_guards=(guard,))
    assert (await policy.judge(PROMPT, "fine")).verdicts[0].has_failed
    assert policy.view("fine").text == ""
    await guard.close()
