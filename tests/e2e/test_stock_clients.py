"""Stock clients, unchanged but for the base URL, against the real service on real vLLM."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pytest
from pydantic import BaseModel, Field

from clients.demo.scenes import scene
from tests.e2e.conftest import ALIAS, Service, make_service
from tests.e2e.test_openai_client import messages
from tests.engine_fixture import EngineSession

pytestmark = pytest.mark.engine

END_OF_TURN = "2"
"""The demo model's token id, as a key of `logit_bias`."""


class Answer(BaseModel):
    """Every value is bounded, so that a small model comes to an end."""

    colour: Literal["red", "green", "blue"] | None
    count: int = Field(ge=0, le=9)
    is_sure: bool


@pytest.fixture(scope="module")
def stack(engine_session: EngineSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    # No rules: with its end of turn forbidden the demo model soon says what they block.
    one = make_service(engine_session, tmp_path_factory.mktemp("clients"), rules=[])
    one.start()
    yield one
    one.stop()


def running_in(engine: EngineSession) -> float:
    """Sequences that the engine works on or holds in its queue."""
    lines = httpx.get(f"{engine.url}/metrics", timeout=10).text.splitlines()
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting{")
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(names))


def wait_until(is_true: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


# --- openai -----------------------------------------------------------------------------------------------


def test_openai_sync_with_all_its_fields(stack: Service) -> None:
    """Every field that OpenAI's client can set and that is offered, in one request; the reply is fully typed."""
    client = stack.openai()
    reply = client.chat.completions.create(
        model=ALIAS,
        messages=[{"role": "system", "content": "Be brief."}, *messages()],
        temperature=0.9,
        top_p=0.95,
        max_completion_tokens=24,
        stop=["\n\n"],
        seed=3,
        n=2,
        logprobs=True,
        top_logprobs=2,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        logit_bias={"300": -1},
        user="ann",
        metadata={"app": "test"},
        store=True,
        extra_body={"best_of": 3},
    )
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert {choice.finish_reason for choice in reply.choices} <= {"stop", "length"}
    for choice in reply.choices:
        assert choice.message.role == "assistant"
        assert choice.logprobs is not None
        said = "".join(one.token for one in choice.logprobs.content or [] if not one.token.startswith("<|"))
        whole = (choice.message.content or "?").replace("\N{REPLACEMENT CHARACTER}", "")  # of half a character
        assert said.startswith(whole)
        for one in choice.logprobs.content or []:
            assert len(one.top_logprobs) == 2
            assert one.top_logprobs[0].logprob >= one.top_logprobs[1].logprob
    assert reply.usage is not None
    assert reply.usage.completion_tokens > reply.usage.served_tokens > 0
    assert client.models.retrieve(ALIAS).id == ALIAS


async def test_openai_async_conversations(stack: Service) -> None:
    """Several at once, with several turns and several images each."""
    two = [{"type": "image_url", "image_url": {"url": scene(seed).data_url()}} for seed in (5, 6)]
    conversation = [
        {"role": "user", "content": [*two, {"type": "text", "text": "Describe the image."}]},
        {"role": "assistant", "content": "A scene."},
        {"role": "user", "content": "How many objects are there?"},
    ]
    async with stack.async_openai() as client:
        replies = await asyncio.gather(
            *(client.chat.completions.create(model=ALIAS, messages=conversation, max_tokens=8) for _ in range(6))
        )
    assert all(reply.choices[0].message.content for reply in replies)
    assert len({reply.id for reply in replies}) == 6


@pytest.mark.parametrize("best_of", [1, 3])
async def test_openai_async_streaming(stack: Service, best_of: int) -> None:
    """The chunks' text is the answer's; log-probabilities and usage arrive."""
    common: dict[str, Any] = {"model": ALIAS, "messages": messages(), "max_tokens": 24, "seed": 7, "logprobs": True}
    async with stack.async_openai() as client:
        whole = await client.chat.completions.create(**common, extra_body={"best_of": best_of})
        stream = await client.chat.completions.create(
            **common, stream=True, stream_options={"include_usage": True}, extra_body={"best_of": best_of}
        )
        chunks = [chunk async for chunk in stream]
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == whole.choices[0].message.content
    tokens = [one.token for choice in choices if choice.logprobs for one in choice.logprobs.content or []]
    assert whole.choices[0].logprobs is not None
    assert tokens == [one.token for one in whole.choices[0].logprobs.content or []]
    assert choices[-1].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


@pytest.mark.parametrize("seed", range(4))
def test_openai_structured_outputs(stack: Service, seed: int) -> None:
    """`parse` gets the model's own object back, whatever the model would rather have said."""
    reply = stack.openai().chat.completions.parse(
        model=ALIAS, messages=messages(), max_tokens=96, seed=seed, response_format=Answer
    )
    assert isinstance(reply.choices[0].message.parsed, Answer)
    assert reply.choices[0].finish_reason == "stop"


def test_openai_streamed_structured_outputs(stack: Service) -> None:
    """The client's stream helper parses as the pieces arrive."""
    with stack.openai().chat.completions.stream(
        model=ALIAS, messages=messages(), max_tokens=96, response_format=Answer, extra_body={"best_of": 1}
    ) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Answer)


def test_json_objects_and_free_text_fields(stack: Service) -> None:
    """`json_object`, and a schema with texts and lists: every answer that came to its end is JSON that fits."""
    client = stack.openai()
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "sizes": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
            "kind": {"enum": ["a", "b", 7, None]},
        },
        "required": ["name", "sizes", "kind"],
        "additionalProperties": False,
    }
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema, "strict": True}}
    reply = client.chat.completions.create(
        model=ALIAS,
        messages=messages(),
        max_tokens=160,
        seed=7,
        response_format=wanted,
        n=8,
        extra_body={"best_of": 8},
    )
    whole = [json.loads(one.message.content or "") for one in reply.choices if one.finish_reason == "stop"]
    assert whole
    for thing in whole:
        assert set(thing) == {"name", "sizes", "kind"}
        assert len(thing["name"]) <= 12
        assert len(thing["sizes"]) <= 3
        assert all(0 <= size <= 99 for size in thing["sizes"])
        assert thing["kind"] in ["a", "b", 7, None]
    free = client.chat.completions.create(
        model=ALIAS, messages=messages(), max_tokens=200, response_format={"type": "json_object"}, frequency_penalty=2
    )
    assert (free.choices[0].message.content or "").startswith("{")
    if free.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(free.choices[0].message.content or ""), dict)


def test_what_the_engine_cannot_do_is_a_bad_request(stack: Service) -> None:
    """A token id outside the real vocabulary; a schema with a hostile pattern. The next request works."""
    client = stack.openai()
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=ALIAS, messages=messages(), logit_bias={"9999999": 1})
    assert refused.value.param == "logit_bias"
    hostile = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a+)+b"}}}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "thing", "schema": hostile}}
    with pytest.raises(openai.BadRequestError, match="pattern is not supported"):
        client.chat.completions.create(model=ALIAS, messages=messages(), response_format=wanted)
    assert client.chat.completions.create(model=ALIAS, messages=messages(), max_tokens=4).choices


@pytest.mark.parametrize(("stream", "best_of"), [(True, 1), (True, 4), (False, 4)])
def test_a_client_that_goes_away_frees_the_engine(
    stack: Service, engine_session: EngineSession, stream: bool, best_of: int
) -> None:
    """All candidates are aborted in vLLM, long before they would have ended."""
    body = {
        "model": ALIAS,
        "messages": messages(),
        "max_tokens": 1800,
        "best_of": best_of,
        "stream": stream,
        "logit_bias": {END_OF_TURN: -100},
    }
    wait_until(lambda: running_in(engine_session) == 0, 20, "the engine is not idle")
    url = f"{stack.url}/v1/chat/completions"
    completion = ""
    if stream:
        with httpx.stream("POST", url, json=body, timeout=30) as response:
            completion = response.headers["x-plumbline-completion-id"]
            pieces = response.iter_raw()
            next(pieces)
            wait_until(lambda: running_in(engine_session) > 0, 5, "the engine never began")
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=body, timeout=1.0)
    left_at = time.monotonic()
    wait_until(lambda: running_in(engine_session) == 0, 3, "the engine works on for nobody")
    assert time.monotonic() - left_at < 3
    if completion:
        said = httpx.post(f"{stack.url}/v1/feedback", json={"completion_id": completion, "rating": "up"}, timeout=40)
        assert said.json()["trainable"] is False
    assert stack.openai().chat.completions.create(model=ALIAS, messages=messages(), max_tokens=4).choices


CITY = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "description": "The weather now", "parameters": CITY}},
    {"type": "function", "function": {"name": "clock"}},
]


def test_openai_tools(stack: Service) -> None:
    """A call that is asked for, its result, and the answer to it; streamed, named and required."""
    client = stack.openai()
    asked: list[Any] = messages(text="How is the weather?")
    named: Any = {"type": "function", "function": {"name": "weather"}}
    reply = client.chat.completions.create(
        model=ALIAS, messages=asked, tools=TOOLS, tool_choice=named, max_tokens=96, n=2, extra_body={"best_of": 3}
    )
    for choice in reply.choices:
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls or []
        assert call.type == "function"
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments)["city"] in {"Oslo", "Rome"}
    message = reply.choices[0].message
    assert message.tool_calls
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "Rain"}
    answer = client.chat.completions.create(
        model=ALIAS, messages=[*asked, message, result], tools=TOOLS, tool_choice="none", max_tokens=12
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert reply.usage is not None
    assert answer.usage.prompt_tokens > reply.usage.prompt_tokens
    with client.chat.completions.stream(
        model=ALIAS, messages=asked, tools=TOOLS, tool_choice="required", max_tokens=96, extra_body={"best_of": 1}
    ) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert call.function.name in {"weather", "clock"}
    auto = client.chat.completions.create(model=ALIAS, messages=asked, tools=TOOLS, max_tokens=12)
    assert auto.choices[0].finish_reason in {"stop", "length", "tool_calls"}
    plain = client.chat.completions.create(model=ALIAS, messages=asked, max_tokens=12)
    assert auto.usage is not None
    assert plain.usage is not None
    assert auto.usage.prompt_tokens > plain.usage.prompt_tokens + 50


# --- others -----------------------------------------------------------------------------------------------


def test_litellm(stack: Service) -> None:
    """LiteLLM's SDK, in an environment of its own: it wants an older `openai`."""
    beside = Path(sys.prefix).with_name(Path(sys.prefix).name + "-litellm")
    python = os.environ.get("LITELLM_PYTHON") or str(beside / "bin" / "python")
    if not Path(python).exists():
        pytest.skip(f"LiteLLM's environment is missing: make litellm ({python})")
    script = Path(__file__).with_name("litellm_client.py")
    schema = json.dumps(Answer.model_json_schema())
    ran = subprocess.run(
        [python, str(script), f"{stack.url}/v1", ALIAS, scene(5).data_url(), schema],
        env={
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/tmp"),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout[ran.stdout.index("{") :])
    assert found["text"]
    assert found["finish_reason"] in {"stop", "length"}
    assert found["tokens"] > 0
    assert found["streamed"] == found["text"]
    Answer.model_validate_json(found["structured"])
    assert "model does not exist" in found["refused"]


async def test_langchain_openai(stack: Service) -> None:
    """`ChatOpenAI`: a call, a stream, several at once, and structured output."""
    langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is missing: pip install -e '.[dev]'")
    model = langchain.ChatOpenAI(
        base_url=f"{stack.url}/v1", api_key="local", model=ALIAS, max_tokens=24, seed=5, stream_usage=True
    )
    asked = [("system", "Be brief."), ("human", messages()[0]["content"])]
    answer = model.invoke(asked)
    assert answer.content
    assert answer.response_metadata["finish_reason"] in {"stop", "length"}
    assert answer.usage_metadata["output_tokens"] > 0
    chunks = [chunk async for chunk in model.astream(asked)]
    assert "".join(chunk.content for chunk in chunks) == answer.content
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) > 0
    assert len(await model.abatch([asked, asked, asked])) == 3
    structured = langchain.ChatOpenAI(base_url=f"{stack.url}/v1", api_key="local", model=ALIAS, max_tokens=96)
    assert isinstance(structured.with_structured_output(Answer, method="json_schema").invoke(asked), Answer)


def test_curl(stack: Service) -> None:
    """The shell: an answer, a stream as it comes, and an error with its status."""
    url = f"{stack.url}/v1/chat/completions"

    def curl(body: dict[str, Any], *options: str) -> str:
        command = ["curl", "-sS", "-N", *options, url, "-H", "Content-Type: application/json", "-d", "@-"]
        return subprocess.run(
            command, input=json.dumps(body), capture_output=True, text=True, timeout=60, check=True
        ).stdout

    body = {"model": ALIAS, "messages": messages(), "max_tokens": 8, "seed": 2, "best_of": 1}
    answer = json.loads(curl(body))
    assert answer["choices"][0]["message"]["refusal"] is None
    events = curl(body | {"stream": True}).strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    text = "".join(
        choice["delta"].get("content", "")
        for event in events[:-1]
        if event.startswith("data: ")
        for choice in json.loads(event[6:])["choices"]
    )
    assert text == answer["choices"][0]["message"]["content"]
    refused = curl(body | {"n": 0}, "-w", "\n%{http_code}")
    assert refused.endswith("\n400")
    assert json.loads(refused.rpartition("\n")[0])["error"]["param"] == "n"
