"""Answers that are held to a JSON schema, and what else an OpenAI request may ask of the sampling."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from server.wire.chat import ChatReply
from tests.api.conftest import CHAT, Stack, assert_openai_error, chat_body
from tests.api.saying import group_of, taught


class Part(BaseModel):
    name: str
    colour: str | None
    count: int


class Answer(BaseModel):
    parts: list[Part]
    is_complete: bool


def schema_format(schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


async def test_every_candidate_fits_the_schema(stack: Stack) -> None:
    """The engine is given the schema itself, and all choices are JSON that fits it."""
    wanted = schema_format(Answer.model_json_schema(), strict=True)
    reply = await stack.chat(best_of=4, n=4, response_format=wanted)
    assert len(reply["choices"]) == 4
    for choice in reply["choices"]:
        Answer.model_validate_json(choice["message"]["content"])
    sampling = stack.engine.calls[-1].sampling
    assert sampling is not None
    assert sampling.json_schema is not None
    assert json.loads(sampling.json_schema) == Answer.model_json_schema()


async def test_json_object_gives_an_object(stack: Stack) -> None:
    """Any object, but an object."""
    reply = await stack.chat(response_format={"type": "json_object"})
    assert isinstance(json.loads(reply["choices"][0]["message"]["content"]), dict)


async def test_a_text_format_says_nothing(stack: Stack) -> None:
    """OpenAI's default is accepted and changes nothing."""
    plain = await stack.chat()
    named = await stack.chat(response_format={"type": "text"})
    assert plain["choices"][0]["message"] == named["choices"][0]["message"]


async def test_a_streamed_answer_fits_it_too(stack: Stack) -> None:
    """Piece by piece, the same JSON."""
    body = chat_body(best_of=1, stream=True, response_format=schema_format(Answer.model_json_schema()))
    response = await stack.client.post(CHAT, json=body)
    chunks = [json.loads(line[6:]) for line in response.text.split("\n\n") if line.startswith("data: {")]
    text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    Answer.model_validate_json(text)


async def test_a_cut_answer_says_so_and_a_whole_one_is_preferred(stack: Stack) -> None:
    """Half a JSON is `length`; where another candidate came to its end, that one is the answer."""
    stack.engine.token_logprob = lambda model, prompt, token: -0.01 if "x" in token else -5.0  # likes the cut ones
    stack.engine.script = lambda model, prompt, index: '{"a": 1}' if index == 2 else '{"a": "' + "x " * 50
    wanted = schema_format({"type": "object", "properties": {"a": True}})
    reply = await stack.chat(best_of=4, max_tokens=20, response_format=wanted)
    assert reply["choices"][0]["message"]["content"] == '{"a": 1}'
    stack.engine.script = lambda model, prompt, index: '{"a": "' + "x " * 50
    cut = await stack.chat(best_of=2, max_tokens=20, response_format=wanted)
    assert cut["choices"][0]["finish_reason"] == "length"


async def test_a_group_under_a_schema_is_off_policy(stack: Stack) -> None:
    """The logged log-probabilities are the model's own, the draw was the grammar's: no policy gradients."""
    reply = await stack.chat(best_of=2, response_format={"type": "json_object"})
    group = await group_of(stack, reply["id"])
    assert not group.on_policy_sampling
    assert group.sampling["json_schema"] == '{"type":"object"}'
    biased = await stack.chat(best_of=2, logit_bias={"300": -100})
    assert not (await group_of(stack, biased["id"])).on_policy_sampling
    assert await taught(stack, reply["id"]) is None


async def test_logit_bias_reaches_the_engine_and_foreign_ids_are_refused(stack: Stack) -> None:
    """Ids as OpenAI sends them, as keys; one outside the vocabulary is a 400 that names the field."""
    await stack.chat(logit_bias={"300": -100, "301": 1.5})
    sampling = stack.engine.calls[-1].sampling
    assert sampling is not None
    assert sampling.logit_bias == ((300, -100.0), (301, 1.5))
    stack.engine.vocabulary_size = 512
    for stream in (False, True):
        body = chat_body(logit_bias={"512": 1}, best_of=1, stream=stream)
        refused = await stack.client.post(CHAT, json=body)
        if stream:
            assert '"param":"logit_bias"' in refused.text.replace(" ", "")
        else:
            assert_openai_error(refused, 400, "invalid_request", "logit_bias")
    assert await stack.chat(logit_bias={"511": 1})


async def test_logprobs_have_openai_s_shape(stack: Stack) -> None:
    """`content` with token, logprob, bytes and the alternatives; absent where nobody asked."""
    reply = await stack.chat(logprobs=True, top_logprobs=1, best_of=1)
    logprobs = reply["choices"][0]["logprobs"]
    assert set(logprobs) == {"content", "refusal"}
    for one in logprobs["content"]:
        assert set(one) == {"token", "logprob", "bytes", "top_logprobs"}
        assert bytes(one["bytes"]).decode() == one["token"]
        assert [set(other) for other in one["top_logprobs"]] == [{"token", "logprob", "bytes"}]
    alone = await stack.chat(logprobs=True)
    assert all(one["top_logprobs"] == [] for one in alone["choices"][0]["logprobs"]["content"])
    assert (await stack.chat())["choices"][0]["logprobs"] is None


async def test_all_of_openai_s_sampling_fields_reach_the_engine(stack: Stack) -> None:
    """None is dropped on the way."""
    await stack.chat(
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        stop=["one", "two"],
        max_completion_tokens=7,
        temperature=0.5,
        top_p=0.9,
        user="ann",
        metadata={"app": "shop"},
    )
    sampling = stack.engine.calls[-1].sampling
    assert sampling is not None
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert (sampling.stop, sampling.max_tokens) == (("one", "two"), 7)
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.5, 0.9, 1)


async def test_reply_models_read_what_is_sent(stack: Stack) -> None:
    """The wire's own models are the documentation of the reply."""
    reply = await stack.chat(logprobs=True, n=2, best_of=3)
    assert ChatReply.model_validate(reply).model_dump(exclude_none=True)["choices"][1]["index"] == 1
