"""Traces of chat requests: what is in them, and what never is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from server.app import create_app
from server.config import TracingConfig
from server.engine.port import EngineError
from server.tracing import Tracing, open_tracing
from tests.api.conftest import CHAT, Opener, Stack, chat_body, config_for

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "a word that nobody else says"


class Traced:
    """An application whose spans are kept in memory."""

    def __init__(self, stack: Stack) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.engine = stack.engine
        services = dataclasses.replace(stack.services, tracing=Tracing(provider.get_tracer("test")))
        transport = httpx.ASGITransport(create_app(services), raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://localhost")

    async def ask(self, **changes: Any) -> httpx.Response:
        return await self.client.post(CHAT, json=chat_body(**changes), headers={"traceparent": PARENT})

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    @property
    def request(self) -> ReadableSpan:
        (found,) = [one for one in self.spans if one.name.startswith("chat ")]
        return found

    @property
    def stages(self) -> Iterator[str]:
        return (one.name for one in self.spans if one is not self.request)


@pytest.fixture
async def traced(stack: Stack) -> Traced:
    return Traced(stack)


@pytest.mark.parametrize(("best_of", "stream"), [(1, False), (3, False), (1, True), (3, True)])
async def test_a_request_is_a_span_with_its_stages(traced: Traced, best_of: int, stream: bool) -> None:
    """One trace: the caller's. Children in order, within their parent; GenAI names with what really happened."""
    response = await traced.ask(best_of=best_of, stream=stream, temperature=0.5, max_tokens=9)
    assert response.status_code == 200
    request = traced.request
    assert request.context is not None
    assert f"{request.context.trace_id:032x}" == PARENT.split("-")[1]
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT.split("-")[2]
    assert list(traced.stages) == ["queue", "generate", "judge", "commit"]
    for one in traced.spans:
        assert one is request or (one.parent is not None and one.parent.span_id == request.context.span_id)
        assert request.start_time <= one.start_time <= one.end_time <= request.end_time
    said = dict(request.attributes or {})
    assert said.pop("gen_ai.response.id").startswith("cmpl")
    assert said.pop("gen_ai.usage.input_tokens") > 0
    assert 0 < said.pop("gen_ai.usage.output_tokens") <= 9 * best_of
    assert said.pop("gen_ai.response.finish_reasons") in {("stop",), ("length",)}
    assert said == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "plumbline",
        "gen_ai.request.model": "default",
        "gen_ai.request.choice.count": 1,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.response.model": "base",
        "plumbline.best_of": best_of,
        "plumbline.generated": best_of,
        "plumbline.generation": 0,
        "plumbline.degraded": 0,
    }


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_is_told_by_its_code(traced: Traced, stream: bool) -> None:
    """Of the request and of the stage in which it failed; nothing of the error's text."""
    traced.engine.fail_next(EngineError(SECRET))
    await traced.ask(best_of=1, stream=stream)
    failed = {one.name for one in traced.spans if one.status.status_code is StatusCode.ERROR}
    assert failed == {"chat default", "generate"}
    for one in traced.spans:
        assert (one.attributes or {}).get("error.type") == ("engine_unavailable" if one.name in failed else None)


async def test_no_text_and_nobody_is_in_a_trace(traced: Traced) -> None:
    """Neither prompt nor answer, image, user, key or header: not in attributes, names, events or statuses."""
    traced.engine.script = lambda model, prompt, index: f"{SECRET} {index}"
    messages = [{"role": "user", "content": f"{SECRET}?"}]
    for stream in (False, True):
        await traced.ask(messages=messages, user=SECRET, stop=[SECRET], stream=stream, best_of=2)
    assert len(traced.spans) == 10
    assert SECRET not in "".join(one.to_json() for one in traced.spans)


async def test_what_is_refused_at_once_has_no_span(traced: Traced) -> None:
    assert (await traced.ask(model="nobody")).status_code == 404
    assert traced.spans == []


async def test_tracing_is_off_unless_it_is_asked_for(stack: Stack) -> None:
    assert not stack.services.tracing.is_on
    assert not open_tracing(TracingConfig(), "1").is_on


async def test_a_collector_that_is_away_disturbs_nobody(open_stack: Opener, tmp_path: Path) -> None:
    """Spans are sent beside the requests, from the configuration alone."""
    config = config_for(tmp_path).model_copy(update={"tracing": TracingConfig(endpoint="http://127.0.0.1:9/v1/traces")})
    stack = await open_stack(config)
    assert stack.services.tracing.is_on
    assert (await stack.chat())["choices"]


def test_the_share_bounds_what_is_kept_whatever_a_caller_says() -> None:
    """A caller's sampled flag does not make the server keep a trace."""
    tracing = open_tracing(TracingConfig(endpoint="http://127.0.0.1:9/v1/traces", share=0.0), "1")
    span = tracing.begin("default", {"traceparent": PARENT}, 0.0)
    assert not span._span.is_recording()  # type: ignore[attr-defined]
    span.end()
    tracing.close()
