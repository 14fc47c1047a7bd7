"""Request bodies and the meaning of replies, without an engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reward.types import Image, Message, Prompt, Tool
from server.engine import payload
from server.engine.payload import EventParser
from server.engine.port import (
    Beginning,
    EngineError,
    PromptTooLong,
    RefusedParameter,
    Retokenised,
    Sampling,
    ScoredAnswer,
    UnknownModel,
)

IMAGE = Image("0" * 64, "image/png", b"\x89PNG bytes")
PLAIN = Sampling(max_tokens=9)
PROMPT = Prompt((Message("system", ("Be brief.",)), Message("user", (IMAGE, "What is it?"))))


def entry(token: str, logprob: float, *top: tuple[str, float]) -> dict[str, Any]:
    others = [{"token": text, "logprob": value, "bytes": []} for text, value in top]
    return {"token": token, "logprob": logprob, "bytes": [], "top_logprobs": others}


def choice(index: int, text: str, **changes: Any) -> dict[str, Any]:
    usual = {
        "index": index,
        "message": {"role": "assistant", "content": text},
        "logprobs": {"content": [entry("a", -0.5), entry("", -0.25)]},
        "finish_reason": "stop",
        "token_ids": [71, 2],
    }
    return usual | changes


def reply(*choices: dict[str, Any]) -> dict[str, Any]:
    return {"choices": list(choices), "prompt_token_ids": [1, 5, 5, 2]}


def test_a_pause_is_told_from_an_end() -> None:
    """The engine cuts the text at the end that it found; the token was sampled as a whole, and so is the text kept."""
    beginning = Beginning("A", (5, 2), ends=(".",))
    paused = choice(
        0, " cup.", stop_reason=".", logprobs={"content": [entry(" cup", -0.5), entry(".\n", -0.25)]}, token_ids=[7, 9]
    )
    made = payload.continuations_from(reply(paused, choice(1, " b")), "base", beginning, 2, PLAIN)
    assert made.prompt_token_ids == (1, 5)
    assert [(one.text, one.finish_reason) for one in made.candidates] == [(" cup.\n", "step"), (" b", "stop")]
    assert made.candidates[0].token_ids == (7, 9)
    with pytest.raises(Retokenised):
        payload.continuations_from(reply(choice(0, "x")), "base", Beginning("A", (6, 2)), 1, PLAIN)


def test_a_continuation_names_its_ends() -> None:
    """The conversation ends with the answer so far, left open; without one it is a chat like any other."""
    body = payload.extend_body("base", PROMPT, Beginning("So far", (3,), (".", "!")), 2, PLAIN)
    assert body["messages"][-1] == {"role": "assistant", "content": "So far"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert (body["stop"], body["include_stop_str_in_output"], body["n"]) == ([".", "!"], True, 2)
    first = payload.extend_body("base", PROMPT, Beginning(ends=(".",)), 2, PLAIN)
    assert len(first["messages"]) == 2 and "continue_final_message" not in first


def test_images_travel_as_their_own_bytes() -> None:
    """Data URLs in the order of the parts; plain text stays a string."""
    system, user = payload.messages_body(PROMPT)
    assert system == {"role": "system", "content": "Be brief."}
    assert user["content"][0]["image_url"]["url"] == "data:image/png;base64,iVBORyBieXRlcw=="
    assert user["content"][1] == {"type": "text", "text": "What is it?"}


def test_nothing_is_left_to_a_models_own_defaults() -> None:
    """Every parameter that a generation_config.json could set is sent, at its neutral value."""
    body = payload.chat_body("base", PROMPT, 3, Sampling(max_tokens=8), stream=False)
    neutral = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert {name: body[name] for name in neutral} == neutral
    assert (body["n"], body["logprobs"], body["return_token_ids"]) == (3, True, True)
    assert "seed" not in body
    assert "top_logprobs" not in body


@pytest.mark.parametrize(("wanted", "sent"), [(1, 2), (5, 6), (19, 20), (20, 20)])
def test_one_more_alternative_is_asked_for(wanted: int, sent: int) -> None:
    """VLLM counts the sampled token; its limit is kept."""
    body = payload.chat_body("base", PROMPT, 1, Sampling(max_tokens=8, top_logprobs=wanted), stream=False)
    assert body["top_logprobs"] == sent


def test_sampling_parameters_are_passed_on() -> None:
    """All of them, under vLLM's names."""
    sampling = Sampling(8, 0.7, 0.9, 40, 0.1, 0.2, 0.3, 1.1, ("END",), 5, 2)
    body = payload.chat_body("base", PROMPT, 1, sampling, stream=True)
    expected = {
        "max_tokens": 8, "temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "presence_penalty": 0.2,
        "frequency_penalty": 0.3, "repetition_penalty": 1.1, "stop": ["END"], "seed": 5, "stream": True,
    }  # fmt: skip
    assert {name: body[name] for name in expected} == expected


def test_a_scoring_leaves_the_answer_open() -> None:
    """The answer is the last message, no end of turn and no generation prompt follow it."""
    body = payload.score_body("base", PROMPT, "A red circle.")
    assert body["messages"][-1] == {"role": "assistant", "content": "A red circle."}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert (body["prompt_logprobs"], body["max_tokens"]) == (0, 1)


def test_candidates_come_in_index_order() -> None:
    """Whatever the order of the reply."""
    generation = payload.generation_from(reply(choice(1, "two"), choice(0, "one")), "adapter-1", 2, PLAIN)
    assert [(candidate.index, candidate.text) for candidate in generation.candidates] == [(0, "one"), (1, "two")]
    assert generation.candidates[0].adapter == "adapter-1"
    assert generation.candidates[0].logprobs == (-0.5, -0.25)
    assert generation.prompt_token_ids == (1, 5, 5, 2)


def test_alternatives_are_sorted_and_cut() -> None:
    """The sampled token stands first in vLLM's list; here the likeliest does."""
    content = [entry("c", -3.0, ("c", -3.0), ("a", -0.5), ("b", -1.0))]
    answer = choice(0, "c", token_ids=[7], logprobs={"content": content})
    token = payload.generation_from(reply(answer), "base", 1, Sampling(max_tokens=9, top_logprobs=2)).tokens[0][0]
    assert token.top == (("a", -0.5), ("b", -1.0))


@pytest.mark.parametrize(
    "broken",
    [
        reply(choice(0, "one")),
        reply(choice(0, "one"), choice(0, "one")),
        {"choices": [choice(0, "one"), choice(1, "two")]},
        {"choices": None, "prompt_token_ids": []},
        {},
        reply(choice(0, "one"), choice(1, "two", token_ids=[1])),
        reply(choice(0, "one"), choice(1, "two", logprobs=None)),
        reply(choice(0, "one"), choice(1, "two", finish_reason="abort")),
        reply(choice(0, "one"), choice(1, "two", finish_reason=None)),
        reply(choice(0, "one"), choice(1, "two", logprobs={"content": [entry("a", float("nan")), entry("", 0.0)]})),
        reply(choice(0, "one"), {"index": 1}),
        reply(choice(0, "one"), choice(1, "two", message=None)),
    ],
)
def test_a_reply_that_was_not_asked_for_is_an_engine_error(broken: dict[str, Any]) -> None:
    """Missing or doubled answers, missing parts, ids without log-probabilities, aborted answers, NaN."""
    with pytest.raises(EngineError):
        payload.generation_from(broken, "base", 2, PLAIN)


def test_a_scored_prompt_has_a_value_for_each_token() -> None:
    """The first token, which has none, counts 0; other ranks at a position are ignored."""
    positions = [None, {"5": {"logprob": -1.5}, "9": {"logprob": -0.1}}, {"7": {"logprob": -2.0}}]
    scored = payload.scored_prompt_from({"prompt_token_ids": [1, 5, 7], "prompt_logprobs": positions})
    assert scored == ScoredAnswer((1, 5, 7), (0.0, -1.5, -2.0))
    assert payload.tail(scored, 1).total == -3.5


@pytest.mark.parametrize("positions", [None, [None], [None, {"6": {"logprob": -1.0}}], [None, {"5": {}}]])
def test_a_scoring_without_its_values_is_an_engine_error(positions: Any) -> None:
    """No list, a short one, another token's value, no value."""
    with pytest.raises(EngineError):
        payload.scored_prompt_from({"prompt_token_ids": [1, 5], "prompt_logprobs": positions})


def test_an_ending_is_only_found_at_the_end() -> None:
    """And never makes up the whole conversation."""
    assert payload.ends_with((1, 2, 3), (2, 3))
    assert not payload.ends_with((1, 2, 3), (1, 2))
    assert not payload.ends_with((2, 3), (2, 3))
    assert payload.starts_with((1, 2, 3), (1, 2))
    assert not payload.starts_with((1, 2), (1, 2, 3))


@pytest.mark.parametrize(
    ("status", "error", "kind", "retryable"),
    [
        (404, {"message": "The model `x` does not exist.", "param": "model"}, UnknownModel, False),
        (404, {"message": "LoRA adapter x does not exist", "param": None}, UnknownModel, False),
        (404, {"message": "Not Found"}, EngineError, False),
        (400, {"message": "maximum context length is 4", "param": "input_tokens"}, PromptTooLong, False),
        (400, {"message": "max_tokens=9 cannot be greater", "param": "max_tokens"}, PromptTooLong, False),
        (400, {"message": "n must be 1", "param": None}, EngineError, False),
        (429, {"message": "slow down"}, EngineError, True),
        (500, {"message": "EngineDeadError"}, EngineError, True),
        (503, "not an object", EngineError, True),
        (502, None, EngineError, True),
    ],
)
def test_refusals_are_told_apart(status: int, error: object, kind: type[EngineError], retryable: bool) -> None:
    """By status and parameter; what is not JSON counts by its status alone."""
    found = payload.error_from(status, {"error": error})
    assert type(found) is kind
    assert found.retryable is retryable


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_events_survive_any_splitting(size: int) -> None:
    """Split in the middle of lines and characters, with comments and both line ends."""
    events = [{"text": "é 世界"}, {"text": "two"}]
    lines = [
        b": heartbeat\r\n",
        *(b"data: " + json.dumps(e, ensure_ascii=False).encode() + b"\r\n\r\n" for e in events),
    ]
    stream = b"".join(lines) + b"data: [DONE]\n\n"
    parser = EventParser()
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert [event for piece in pieces for event in parser.feed(piece)] == [*events, None]


@pytest.mark.parametrize("line", [b"data: {broken\n", b"data: 3\n", b"x" * (EventParser.MAX_PENDING_BYTES + 1)])
def test_a_broken_stream_is_an_engine_error(line: bytes) -> None:
    """No JSON, no object, no end of line."""
    with pytest.raises(EngineError):
        EventParser().feed(line)


def test_an_error_in_mid_stream_is_raised() -> None:
    """With the meaning that its code has."""
    with pytest.raises(EngineError) as caught:
        payload.delta_from({"error": {"message": "engine died", "code": 500}}, PLAIN)
    assert caught.value.retryable
    with pytest.raises(PromptTooLong):
        payload.delta_from({"error": {"message": "too long", "code": 400, "param": "input_tokens"}}, PLAIN)


def test_an_event_becomes_a_delta() -> None:
    """Text, ids and values of one piece; usage events have none."""
    event = {
        "choices": [
            {"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [entry("a", -1.0)]}, "token_ids": [71]}
        ]
    }
    delta = payload.delta_from(event, PLAIN)
    assert delta is not None
    assert (delta.text, delta.token_ids, delta.logprobs, delta.finish_reason) == ("a", (71,), (-1.0,), None)
    assert payload.delta_from({"choices": []}, PLAIN) is None
    with pytest.raises(EngineError):
        payload.delta_from({"choices": [{}]}, PLAIN)


def test_a_schema_a_bias_and_a_forced_tool_reach_the_engine_as_it_names_them() -> None:
    """The tools go to the template, and the engine is told not to look for calls."""
    tool = Tool("clock", "The time", '{"type":"object","properties":{}}')
    prompt = Prompt((Message("user", ("Hi",)),), (tool,))
    sampling = Sampling(max_tokens=5, logit_bias=((7, -1.5),), json_schema='{"type":"object"}')
    body = payload.chat_body("m", prompt, 1, sampling, stream=False)
    assert body["logit_bias"] == {"7": -1.5}
    assert body["structured_outputs"] == {"json": '{"type":"object"}'}
    assert body["tool_choice"] == "none"
    assert body["tools"][0]["function"]["name"] == "clock"
    forced = payload.chat_body("m", prompt, 1, Sampling(max_tokens=5, forced_tools=("clock",)), stream=False)
    assert "clock" in forced["structured_outputs"]["structural_tag"]
    assert payload.render_body("m", prompt)["tools"] == body["tools"]
    plain = payload.chat_body("m", Prompt(prompt.messages), 1, Sampling(max_tokens=5), stream=False)
    assert not plain.keys() & {"tools", "tool_choice", "structured_outputs", "logit_bias"}


def test_a_bounded_string_is_json_whatever_the_grammar_lets_through() -> None:
    """A control character inside is written as JSON writes it, streamed or not; other answers stay as they are."""
    sampling, text = Sampling(max_tokens=9, json_schema='{"type":"object"}'), '{"name":"a\x13\tb"}'
    whole = payload.generation_from(reply(choice(0, text)), "base", 1, sampling).candidates[0]
    assert json.loads(whole.text) == {"name": "a\x13\tb"}
    event = {"choices": [{"index": 0, "delta": {"content": "a\x13\n"}}]}
    delta, as_it_is = payload.delta_from(event, sampling), payload.delta_from(event, PLAIN)
    assert delta is not None and delta.text == "a\\u0013\n"
    assert as_it_is is not None and as_it_is.text == "a\x13\n"


@pytest.mark.parametrize(
    ("message", "parameter"),
    [
        ("token_id(s) [999] in logit_bias contain out-of-vocab token ids.", "logit_bias"),
        ("Failed to transform json schema into a grammar: x", "json_schema"),
        ("Invalid structural tag specification.", "forced_tools"),
    ],
)
def test_a_parameter_that_the_engine_cannot_follow_is_told_apart(message: str, parameter: str) -> None:
    """The app is told which one, instead of to try again."""
    error = payload.error_from(400, {"error": {"message": message, "code": 400}})
    assert isinstance(error, RefusedParameter)
    assert error.parameter == parameter
    assert not error.retryable


def test_alternatives_for_scorers_are_kept_apart_from_those_of_the_request() -> None:
    """The engine is asked for the larger number; the reply shows what the request wanted, the candidate the rest."""
    sampling = Sampling(max_tokens=9, top_logprobs=1, certainty_top_k=3)
    assert payload.chat_body("base", PROMPT, 1, sampling, stream=False)["top_logprobs"] == 4
    token = entry("a", -1.0, ("d", -4.0), ("a", -1.0), ("b", -2.0), ("c", -3.0))
    answer = choice(0, "a", token_ids=[71], logprobs={"content": [token]})
    generation = payload.generation_from(reply(answer), "base", 1, sampling)
    assert generation.tokens[0][0].top == (("a", -1.0),)
    assert generation.candidates[0].alternatives == ((-1.0, -2.0, -3.0),)
