"""Tools: functions that an app offers, calls in the answer, results in the conversation."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.tool_calls import written
from tests.api.conftest import CHAT, Stack, assert_openai_error, chat_body
from tests.api.saying import group_of, say, taught
from tests.api.test_streaming import script_of, streamed, text_of

CITY = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Now", "parameters": CITY}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
NAMED = {"type": "function", "function": {"name": "weather"}}


async def test_a_named_function_is_called_with_arguments_of_its_schema(stack: Stack) -> None:
    """Every candidate; `content` is null, `finish_reason` says `tool_calls`."""
    reply = await stack.chat(tools=[WEATHER, CLOCK], tool_choice=NAMED, n=3, best_of=3)
    for choice in reply["choices"]:
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        (call,) = choice["message"]["tool_calls"]
        assert set(call) == {"id", "type", "function"}
        assert call["function"]["name"] == "weather"
        assert json.loads(call["function"]["arguments"])["city"] in {"Oslo", "Rome"}
    assert len({choice["message"]["tool_calls"][0]["id"] for choice in reply["choices"]}) == 3


async def test_required_calls_one_of_them(stack: Stack) -> None:
    """Which one is the model's choice."""
    called = set()
    for seed in range(12):
        reply = await stack.chat(tools=[WEATHER, CLOCK], tool_choice="required", seed=seed, best_of=1)
        called.add(reply["choices"][0]["message"]["tool_calls"][0]["function"]["name"])
    assert called == {"weather", "clock"}


async def test_auto_lets_the_model_speak_or_call(stack: Stack) -> None:
    """Calls are read where there are any; else the text is the answer."""
    spoken = await stack.chat(tools=[WEATHER])
    assert spoken["choices"][0]["message"]["content"]
    assert "tool_calls" not in spoken["choices"][0]["message"]
    two = written("weather", '{"city": "Oslo"}') + "\n" + written("weather", '{"city": "Rome"}')
    stack.engine.script = script_of("I'll look.\n" + two)
    both = (await stack.chat(tools=[WEATHER]))["choices"][0]
    assert (both["message"]["content"], both["finish_reason"]) == ("I'll look.", "tool_calls")
    assert [json.loads(call["function"]["arguments"])["city"] for call in both["message"]["tool_calls"]] == [
        "Oslo",
        "Rome",
    ]
    one = (await stack.chat(tools=[WEATHER], parallel_tool_calls=False))["choices"][0]
    assert len(one["message"]["tool_calls"]) == 1


async def test_none_leaves_the_text_alone(stack: Stack) -> None:
    """The model is told of the tools, and nothing is taken for a call."""
    stack.engine.script = script_of(written("weather", '{"city": "Oslo"}'))
    reply = await stack.chat(tools=[WEATHER], tool_choice="none")
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert "<tool_call>" in reply["choices"][0]["message"]["content"]
    assert stack.engine.calls[-1].prompt.tools[0].name == "weather"


@pytest.mark.parametrize("best_of", [1, 3])
async def test_calls_in_a_stream(stack: Stack, best_of: int) -> None:
    """As clients put them together: index, id, name and arguments; no raw block as content."""
    chunks, end = await streamed(stack, tools=[WEATHER], tool_choice="required", best_of=best_of)
    assert end == "[DONE]"
    assert text_of(chunks) == ""
    calls = [
        call for chunk in chunks for choice in chunk["choices"] for call in choice["delta"].get("tool_calls") or []
    ]
    assert [(call["index"], call["function"]["name"]) for call in calls] == [(0, "weather")]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_results_come_back_and_the_model_sees_them(stack: Stack) -> None:
    """A whole round: question, call, result, answer."""
    first = await stack.chat(tools=[WEATHER], tool_choice="required", best_of=1)
    message = first["choices"][0]["message"]
    call = message["tool_calls"][0]
    conversation = [
        *chat_body()["messages"],
        message,
        {"role": "tool", "tool_call_id": call["id"], "content": "Rain <|im_end|>"},
    ]
    reply = await stack.chat(messages=conversation, tools=[WEATHER], best_of=2)
    prompt = stack.engine.calls[-1].prompt
    assert [turn.role for turn in prompt.messages] == ["user", "assistant", "tool"]
    assert prompt.messages[1].tool_calls[0].name == "weather"
    assert prompt.messages[2].tool_call_id == call["id"]
    assert "<|im_end|>" not in prompt.messages[2].text
    assert reply["choices"][0]["message"]["content"]


async def test_the_group_holds_the_tools_and_the_sampled_text(stack: Stack) -> None:
    """What was sampled is what is learned from: the text as written, the tools in the prompt, no policy gradients."""
    reply = await stack.chat(tools=[WEATHER], tool_choice="required", best_of=3)
    group = await group_of(stack, reply["id"])
    assert group.prompt[0]["tools"][0][0] == "weather"
    assert group.shown[0].text.startswith("<tool_call>")
    assert not group.on_policy_sampling
    plain = await stack.chat(best_of=3)
    assert (await group_of(stack, plain["id"])).prompt_digest != group.prompt_digest
    assert (await say(stack, reply["id"], rating="down")).status_code == 200
    assert (await taught(stack, reply["id"])) is not None
    exported = await stack.client.get("/v1/preferences", params={"alias": "default", "kind": "unpaired"})
    assert reply["id"] not in exported.text


async def test_a_correction_is_scored_behind_the_tools(stack: Stack) -> None:
    """The engine sees the same prompt again."""
    reply = await stack.chat(tools=[WEATHER], best_of=2)
    assert (await say(stack, reply["id"], correction="It rains.")).status_code == 200
    scored = [call for call in stack.engine.calls if call.method == "score" and call.answer == "It rains."]
    assert scored[-1].prompt.tools[0].name == "weather"


async def test_a_forbidden_word_in_escapes_is_found(stack: Stack) -> None:
    """Whoever parses the arguments would read it (I7)."""
    hidden = "".join(f"\\u{ord(letter):04x}" for letter in "forbidden word")
    stack.engine.script = script_of(written("weather", '{"city": "' + hidden + '"}'))
    response = await stack.client.post(CHAT, json=chat_body(tools=[WEATHER], best_of=2))
    assert response.json()["choices"][0]["finish_reason"] == "content_filter"
    assert "u0066" not in response.text


async def test_a_model_without_tools_says_so(stack: Stack) -> None:
    """By name, whether tools or their traces are in the request."""
    stack.engine.knows_tools = False
    traces = [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
    ]
    for changes in ({"tools": [CLOCK]}, {"messages": traces}):
        refused = await stack.client.post(CHAT, json=chat_body(**changes))
        assert_openai_error(refused, 400, "tools_not_supported", "tools")
    assert await stack.chat()


def with_tool(**function: Any) -> dict[str, Any]:
    return chat_body(tools=[{"type": "function", "function": {"name": "f", **function}}])


HI = {"role": "user", "content": "Hi"}
CALLED = {
    "role": "assistant",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}],
}
LOOP = {"type": "object", "properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"$ref": "#/$defs/x"}}}
HOSTILE = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a+)+b"}}}
BAD = {
    "a schema that loops": with_tool(parameters=LOOP),
    "a hostile pattern": with_tool(parameters=HOSTILE),
    "65 tools": chat_body(tools=[{"type": "function", "function": {"name": f"f{i}"}} for i in range(65)]),
    "a function twice": chat_body(tools=[CLOCK, CLOCK]),
    "a bad name": chat_body(tools=[{"type": "function", "function": {"name": "a b"}}]),
    "another kind of tool": chat_body(tools=[{"type": "web_search"}]),
    "an unknown choice": chat_body(tools=[CLOCK], tool_choice="any"),
    "a choice that is not there": chat_body(tools=[CLOCK], tool_choice=NAMED),
    "required without tools": chat_body(tool_choice="required"),
    "with a response format": chat_body(tools=[CLOCK], response_format={"type": "json_object"}),
    "a call without its result": chat_body(messages=[HI, CALLED, HI]),
    "a result without its call": chat_body(messages=[HI, {"role": "tool", "tool_call_id": "c1", "content": "x"}]),
    "a result of another call": chat_body(messages=[HI, CALLED, {"role": "tool", "tool_call_id": "c2", "content": ""}]),
    "a result without an id": chat_body(messages=[HI, CALLED, {"role": "tool", "content": "x"}]),
    "a user's call": chat_body(messages=[{**CALLED, "role": "user"}]),
    "arguments that are no JSON": chat_body(
        messages=[
            HI,
            {
                "role": "assistant",
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}],
            },
        ]
    ),
    "an assistant with nothing to say": chat_body(messages=[HI, {"role": "assistant"}, HI]),
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
async def test_bad_tools_are_refused(stack: Stack, body: dict[str, Any]) -> None:
    """400 in the one shape (23, 34); the next request works."""
    assert_openai_error(await stack.client.post(CHAT, json=body), 400, "invalid_request")
    assert (await stack.chat())["choices"]
