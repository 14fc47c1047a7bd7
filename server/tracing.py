"""Traces of chat requests by OpenTelemetry, sent over OTLP/HTTP; off unless `tracing.endpoint` is set.

One span a request, a child for each stage after its admission (`server.pipeline.trace`). Attributes are those of the
GenAI semantic conventions (https://opentelemetry.io/docs/specs/semconv/gen-ai/, status Development) and a few of our
own. No text of a prompt or an answer is among them, no user, key or tenant. A request that is refused before it is
understood has no span. Needs `pip install plumbline[tracing]`, which is imported only where tracing is on.

A caller's `traceparent` (W3C Trace Context) becomes the parent. Whether a trace is kept is decided here all the same,
by its id: nobody can make the server send more than `tracing.share`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final, Protocol

from server.config import TracingConfig

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

EXPORT_TIMEOUT_S: Final = 3.0
"""For sending a batch, with its retries. The end of the server waits no longer for a collector that is away."""

Value = str | int | float | bool | Sequence[str]


class RequestSpan(Protocol):
    """One request's span, or nothing of the kind. No method raises."""

    def child(self, name: str) -> AbstractContextManager[None]:
        """A span within it, for the length of a block."""
        ...

    def set(self, **attributes: Value) -> None:
        """Attributes; `__` in a name stands for a dot."""
        ...

    def fail(self, kind: str) -> None: ...

    def end(self) -> None: ...


class _NoSpan:
    def child(self, name: str) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def set(self, **attributes: Value) -> None:
        pass

    def fail(self, kind: str) -> None:
        pass

    def end(self) -> None:
        pass


NO_SPAN: Final[RequestSpan] = _NoSpan()


class _OpenTelemetrySpan:
    def __init__(self, tracer: Tracer, span: Span) -> None:
        from opentelemetry import trace  # noqa: PLC0415

        self._tracer = tracer
        self._span = span
        self._within = trace.set_span_in_context(span)
        self._failed = trace.StatusCode.ERROR

    @contextlib.contextmanager
    def child(self, name: str) -> Iterator[None]:
        # Never made current: the stages of a stream run in several contexts.
        span = self._tracer.start_span(name, context=self._within)
        try:
            yield
        except BaseException as error:
            span.set_attribute("error.type", error_kind(error))
            span.set_status(self._failed)
            raise
        finally:
            span.end()

    def set(self, **attributes: Value) -> None:
        self._span.set_attributes({name.replace("__", "."): value for name, value in attributes.items()})

    def fail(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(self._failed)

    def end(self) -> None:
        self._span.end()


class Tracing:
    """Begins requests' spans. `close` sends what is left."""

    def __init__(self, tracer: Tracer | None = None, close: Callable[[], None] = lambda: None) -> None:
        self._tracer = tracer
        self.close = close

    @property
    def is_on(self) -> bool:
        return self._tracer is not None

    def begin(self, alias: str, headers: Mapping[str, str], elapsed_s: float) -> RequestSpan:
        """The span of a chat request for an alias that began `elapsed_s` ago."""
        if self._tracer is None:
            return NO_SPAN
        from opentelemetry.trace import SpanKind  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        parent = TraceContextTextMapPropagator().extract({"traceparent": headers.get("traceparent", "")})
        span = self._tracer.start_span(
            f"chat {alias}",
            context=parent,
            kind=SpanKind.SERVER,
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "plumbline",
                "gen_ai.request.model": alias,
            },
            start_time=time.time_ns() - int(elapsed_s * 1e9),
        )
        return _OpenTelemetrySpan(self._tracer, span)


def open_tracing(config: TracingConfig, version: str) -> Tracing:
    """As configured; raises `ValueError` with one line where it cannot be."""
    if not config.endpoint:
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import TraceIdRatioBased  # noqa: PLC0415
    except ImportError:
        raise ValueError("tracing.endpoint needs OpenTelemetry: pip install plumbline[tracing]") from None
    provider = TracerProvider(
        resource=Resource.create({"service.name": config.service_name, "service.version": version}),
        sampler=TraceIdRatioBased(config.share),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=config.endpoint, timeout=EXPORT_TIMEOUT_S))
    )
    return Tracing(provider.get_tracer("plumbline", version), provider.shutdown)


def error_kind(error: BaseException) -> str:
    """The error's code or type: all that is told of it."""
    return getattr(error, "code", None) or type(error).__name__
