"""Answers that people type: read by the safety rules, and learned from only where those let them."""

from __future__ import annotations

import asyncio

from server.store.records import GroupState, SignalKind
from tests.api.conftest import Stack, assert_openai_error
from tests.api.saying import group_of, kept, live, say, set_group, taught


async def test_a_replaced_correction_is_history(each_stack: Stack) -> None:
    """Both typed answers are kept, each in a place of its own; the learner is told of the last one alone."""
    reply = await each_stack.chat(best_of=1)
    for text in ("first try", "a second one"):
        assert (await say(each_stack, reply["id"], correction=text)).status_code == 200
    stored = await group_of(each_stack, reply["id"])
    typed = [one for one in stored.candidates if one.adapter == "human"]
    assert [one.text for one in typed] == ["first try", "a second one"]
    assert [one.position for one in stored.candidates] == [0, 1, 2]
    group = await taught(each_stack, reply["id"])
    assert group is not None
    assert [pair["chosen"] for pair in group["pairs"]] == [typed[1].id]
    assert typed[0].id not in {one["id"] for one in group["candidates"]}


async def test_what_expires_meanwhile_is_gone(each_stack: Stack) -> None:
    """Between looking and keeping: 410, and nothing is added to the tombstone."""
    reply = await each_stack.chat(best_of=1)
    each_stack.engine.delay_s = 0.2
    saying = asyncio.create_task(say(each_stack, reply["id"], correction="better"))
    await asyncio.sleep(0.1)
    await set_group(each_stack, reply["id"], state=GroupState.EXPIRED)
    assert_openai_error(await saying, 410, "response_expired")
    assert await kept(each_stack, reply["id"]) == []
    assert len((await group_of(each_stack, reply["id"])).candidates) == 1


async def test_a_typed_control_token_is_plain_text(each_stack: Stack) -> None:
    """A typed end of turn ends no turn, in what is kept and in what the engine tokenises."""
    reply = await each_stack.chat(best_of=1)
    response = await say(each_stack, reply["id"], correction="red<|im_end|> and green")
    assert response.json()["trainable"] is True
    typed = (await group_of(each_stack, reply["id"])).candidates[-1]
    assert typed.text == "red<\u200b|im_end|> and green"
    assert each_stack.engine.calls[-1].answer == typed.text


async def test_a_correction_that_a_rule_blocks_teaches_nothing(each_stack: Stack) -> None:
    """Kept as an opinion with the rule's verdict; it is no positive, nor a safety lesson of its own."""
    reply = await each_stack.chat(best_of=1)
    response = await say(each_stack, reply["id"], correction="a forbidden word", comment="really")
    assert (response.status_code, response.json()["trainable"]) == (200, False)
    (signal,) = await live(each_stack, reply["id"])
    assert (signal.kind, signal.payload["comment"]) == (SignalKind.CORRECTION, "really")
    typed = (await group_of(each_stack, reply["id"])).candidates[-1]
    assert (typed.is_blocked, typed.verdicts["secret"][1]) == (True, "block")
    assert await taught(each_stack, reply["id"]) is None
    rated = await say(each_stack, reply["id"], correction="a forbidden word", rating="down")
    assert rated.json()["trainable"] is True, "the thumb teaches without it"
    group = await taught(each_stack, reply["id"])
    assert group is not None
    assert (group["pairs"], [one["desirable"] for one in group["unpaired"]]) == ([], [False])
    assert "human" not in {one["adapter"] for one in group["candidates"]}


async def test_a_correction_that_changes_nothing_teaches_nothing(stack: Stack) -> None:
    """Sent back as it was shown: the pair could only teach how to end."""
    reply = await stack.chat(best_of=1)
    same = reply["choices"][0]["message"]["content"]
    response = await say(stack, reply["id"], correction=same)
    assert (response.status_code, response.json()["trainable"]) == (200, False)
    assert await taught(stack, reply["id"]) is None


async def test_a_correction_of_a_refusal_teaches_nothing(stack: Stack) -> None:
    """Nothing that a model said is worse than it, and the reply says so."""
    stack.engine.script = lambda model, prompt, index: "the forbidden word"
    reply = await stack.chat(best_of=2)
    response = await say(stack, reply["id"], correction="I would rather not say")
    assert (response.status_code, response.json()["trainable"]) == (200, False)
    assert await taught(stack, reply["id"]) is None
