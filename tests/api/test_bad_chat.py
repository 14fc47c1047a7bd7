"""Bad chat requests, by the rows of the table of bad inputs: 22 to 34. Each is followed by a good one."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.api.conftest import CHAT, Stack, assert_openai_error, chat_body

USER = {"role": "user", "content": "Hi"}


def without(field: str) -> dict[str, Any]:
    body = chat_body()
    del body[field]
    return body


def with_schema(schema: Any, **named: Any) -> dict[str, Any]:
    return chat_body(
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **named}}
    )


def with_property(schema: Any) -> dict[str, Any]:
    return with_schema({"type": "object", "properties": {"a": schema}})


SCHEMA = "response_format.json_schema.schema"

CASES: dict[str, tuple[dict[str, Any], str | None]] = {
    "22 messages missing": (without("messages"), "messages"),
    "22 messages null": (chat_body(messages=None), "messages"),
    "22 messages empty": (chat_body(messages=[]), "messages"),
    "22 messages no list": (chat_body(messages={"role": "user"}), "messages"),
    "23 unknown role": (chat_body(messages=[{"role": "root", "content": "x"}]), "messages.0.role"),
    "23 tool without id": (chat_body(messages=[USER, {"role": "tool", "content": "x"}]), "messages.1"),
    "24 10,000 parts": (
        chat_body(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}] * 10_000}]),
        None,
    ),
    "26 one huge word": (chat_body(messages=[{"role": "user", "content": "x" * 10_000_000}]), None),
    "28 n as text": (chat_body(n="3"), "n"),
    "28 n as a truth": (chat_body(n=True), "n"),
    "28 store as a number": (chat_body(store=1), "store"),
    "29 temperature as text": (chat_body(temperature="0.5"), "temperature"),
    "28 n -1": (chat_body(n=-1), "n"),
    "29 temperature -1": (chat_body(temperature=-1), "temperature"),
    "29 presence_penalty 3": (chat_body(presence_penalty=3), "presence_penalty"),
    "29 frequency_penalty -3": (chat_body(frequency_penalty=-3), "frequency_penalty"),
    "29 repetition_penalty 0": (chat_body(repetition_penalty=0), "repetition_penalty"),
    "30 max_tokens -1": (chat_body(max_tokens=-1), "max_tokens"),
    "30 max_completion_tokens 0": (chat_body(max_completion_tokens=0), "max_completion_tokens"),
    "31 10,000 stops": (chat_body(stop=["x"] * 10_000), "stop"),
    "31 a stop of 1 MB": (chat_body(stop="x" * 1_000_000), "stop.0"),
    "32 logit_bias of 1e4": (chat_body(logit_bias={str(i): 1 for i in range(10_000)}), "logit_bias"),
    "32 logit_bias of 101": (chat_body(logit_bias={"5": 101}), "logit_bias"),
    "32 logit_bias of a word": (chat_body(logit_bias={"hello": 1}), "logit_bias"),
    "32 logit_bias of a negative id": (chat_body(logit_bias={"-1": 1}), "logit_bias"),
    "32 top_logprobs 21": (chat_body(logprobs=True, top_logprobs=21), "top_logprobs"),
    "32 top_logprobs alone": (chat_body(top_logprobs=2), None),
    "33 unknown format": (chat_body(response_format={"type": "grammar"}), "response_format.type"),
    "33 a format without its schema": (chat_body(response_format={"type": "json_schema"}), "response_format"),
    "33 stream_options without stream": (chat_body(stream_options={"include_usage": True}), None),
    "34 a schema that is none": (with_schema("x"), SCHEMA),
    "34 a list at the root": (with_schema({"type": "array"}), SCHEMA),
    "34 a remote $ref": (with_property({"$ref": "https://evil.test/x.json"}), SCHEMA),
    "34 a $ref loop": (
        with_schema(
            {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}}
        ),
        SCHEMA,
    ),
    "34 a pattern": (with_property({"type": "string", "pattern": "(a+)+b"}), SCHEMA),
    "34 too many properties": (
        with_schema({"type": "object", "properties": {f"p{i}": {} for i in range(5000)}}),
        SCHEMA,
    ),
    "34 a huge count": (with_property({"type": "string", "minLength": 10**9}), SCHEMA),
    "34 a bad name": (with_schema({"type": "object"}, name="a b"), "response_format.json_schema.name"),
}

UNKNOWN = [
    "chat_template",
    "chat_template_kwargs",
    "mm_processor_kwargs",
    "media_io_kwargs",
    "prompt_embeds",
    "structured_outputs",
    "guided_regex",
    "guided_json",
    "api_base",
    "user_config",
    "kv_transfer_params",
    "min_tokens",
    "prompt_logprobs",
    "add_generation_prompt",
    "extra_body",
]

UNSUPPORTED: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "mp3"},
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "modalities": ["text", "audio"],
    "prediction": {"type": "content", "content": "x"},
    "reasoning_effort": "high",
    "service_tier": "priority",
    "verbosity": "low",
    "web_search_options": {},
}


@pytest.mark.parametrize(("body", "param"), CASES.values(), ids=CASES.keys())
async def test_a_bad_request_is_refused(stack: Stack, body: dict[str, Any], param: str | None) -> None:
    """400 that names the field, quickly, quoting nothing of the input; the next request works."""
    started = time.monotonic()
    response = await stack.client.post(CHAT, json=body)
    assert_openai_error(response, 400, response.json()["error"]["code"], param)
    assert len(response.text) < 500
    assert time.monotonic() - started < 3.0
    assert (await stack.chat())["choices"]


@pytest.mark.parametrize("field", UNKNOWN)
async def test_foreign_fields_are_refused_by_name_at_any_depth(stack: Stack, field: str) -> None:
    """33: an engine's or a gateway's own fields never get through, wherever they are put."""
    top = await stack.client.post(CHAT, json=chat_body(**{field: {"x": 1}}))
    assert_openai_error(top, 400, "unknown_parameter", field)
    in_message = await stack.client.post(CHAT, json=chat_body(messages=[{**USER, field: 1}]))
    assert_openai_error(in_message, 400, "unknown_parameter", f"messages.0.{field}")
    options = await stack.client.post(CHAT, json=chat_body(plumbline={field: 1}))
    assert_openai_error(options, 400, "unknown_parameter", f"plumbline.{field}")
    in_format = await stack.client.post(CHAT, json=chat_body(response_format={"type": "text", field: 1}))
    assert_openai_error(in_format, 400, "unknown_parameter", f"response_format.{field}")


@pytest.mark.parametrize("field", UNSUPPORTED)
async def test_fields_of_openai_that_are_not_offered_are_refused_by_name(stack: Stack, field: str) -> None:
    """33: never ignored. Null says nothing and passes."""
    refused = await stack.client.post(CHAT, json=chat_body(**{field: UNSUPPORTED[field]}))
    assert_openai_error(refused, 400, "invalid_request")
    assert field in refused.json()["error"]["message"]
    assert (await stack.chat(**{field: None}))["choices"]


async def test_nan_in_a_schema_is_refused(stack: Stack) -> None:
    """34 and 5: JSON has no such numbers."""
    text = json.dumps(with_property({"type": "number", "minimum": 1})).replace('"minimum": 1', '"minimum": NaN')
    response = await stack.client.post(CHAT, content=text, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert (await stack.chat())["choices"]


@pytest.mark.parametrize(
    ("path", "instead"),
    [
        ("/v1/responses", "/v1/chat/completions"),
        ("/v1/completions", "/v1/chat/completions"),
        ("/v1/embeddings", "/v1/chat/completions"),
        ("/v1/files", "image_url"),
        ("/v1/files/file-1/content", "image_url"),
        ("/v1/moderations", "rules"),
        ("/v1/fine_tuning/jobs", "/v1/feedback"),
        ("/v1/chat/completions/cmpl-1", "feed"),
        ("/v1/messages", "/v1/chat/completions"),
    ],
)
async def test_endpoints_that_are_not_offered_name_what_is(stack: Stack, path: str, instead: str) -> None:
    """404 in the one shape, whatever the method."""
    for method in ("GET", "POST", "DELETE"):
        response = await stack.client.request(method, path)
        assert_openai_error(response, 404, "not_found")
        assert instead in response.json()["error"]["message"]


async def test_one_model_can_be_asked_for(stack: Stack) -> None:
    """As clients do before they begin."""
    found = await stack.client.get("/v1/models/default")
    assert found.json()["id"] == "default"
    assert found.json()["object"] == "model"
    assert_openai_error(await stack.client.get("/v1/models/gpt-x"), 404, "model_not_found", "model")


PART = {"type": "image_url", "image_url": "data:image/png;base64,AAAA"}
MENDED: dict[str, tuple[dict[str, Any], str, str]] = {
    "an address in place of an object": (
        chat_body(messages=[{"role": "user", "content": [PART]}]),
        "messages.0.content.0.image_url",
        'as {"url": "data:image/png;base64,..."}',
    ),
    "a part of an unknown type": (
        chat_body(messages=[{"role": "user", "content": [{"type": "image"}]}]),
        "messages.0.content.0",
        "there is 'text', 'image_url'",
    ),
    "an image without its address": (
        chat_body(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
        "messages.0.content.0.image_url.url",
        "Field required",
    ),
    "no part at all": (chat_body(messages=[{"role": "user", "content": []}]), "messages.0.content", "at least 1"),
    "neither text nor parts": (
        chat_body(messages=[{"role": "user", "content": 7}]),
        "messages.0.content",
        "a valid string, or a valid array",
    ),
    "a number in words": (chat_body(best_of="four"), "best_of", "a valid integer, or 'auto'"),
    "a slip of the pen": (chat_body(bestof=4), "bestof", "Is best_of meant?"),
    "a slip in an option": (chat_body(plumbline={"explian": True}), "plumbline.explian", "Is explain meant?"),
    "a name like a type's": (chat_body(**{"list[int]": 1}), "list[int]", "Unknown parameter: list[int]."),
}


@pytest.mark.parametrize("name", MENDED)
async def test_a_slip_is_named_in_the_senders_terms(stack: Stack, name: str) -> None:
    """The field as it was sent, and what mends it: no word of how the body is parsed."""
    body, param, words = MENDED[name]
    response = await stack.client.post(CHAT, json=body)
    assert_openai_error(response, 400, response.json()["error"]["code"], param)
    message = response.json()["error"]["message"]
    assert words in message
    assert "constrained" not in message and "function-" not in message
