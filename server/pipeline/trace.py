"""Where one chat request's time goes: its stages, timed for the metrics and, where tracing is on, told as spans.

A stage may come several times (waves, sentences), never inside another one. What is left of the request's time, without
the queue, is the service's own: its overhead.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self

from server.metrics import Metrics
from server.tracing import NO_SPAN, RequestSpan, Value, error_kind

if TYPE_CHECKING:
    from server.pipeline.task import ChatTask, Outcome

Stage = Literal["admit", "queue", "generate", "judge", "commit"]
NOT_OURS: Final = ("queue", "generate", "judge")


class Trace:
    """One request's, from its first byte to its end; leave the `with` block in any case."""

    __slots__ = ("_alias", "_has_spoken", "_metrics", "_seconds", "_span", "_started_s")

    def __init__(
        self,
        metrics: Metrics | None = None,
        alias: str = "",
        *,
        started_s: float | None = None,
        span: RequestSpan = NO_SPAN,
    ) -> None:
        """`started_s`: when the request began, on the monotonic clock; what has passed since was its admission.
        Without `metrics` nothing is told to anybody.
        """
        self._metrics = metrics
        self._alias = alias
        self._span = span
        self._started_s = time.monotonic() if started_s is None else started_s
        self._seconds: dict[Stage, float] = {}
        self._has_spoken = False
        self._note("admit", self._elapsed_s())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            self.failed(error)
        self._span.end()

    @contextlib.contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        started_s = time.monotonic()
        try:
            with self._span.child(name):
                yield
        finally:
            self._note(name, time.monotonic() - started_s)

    def spoke(self) -> None:
        """A piece of the answer leaves; the first one counts."""
        if not self._has_spoken:
            self._has_spoken = True
            if self._metrics is not None:
                self._metrics.first_token_seconds.labels(self._alias).observe(self._elapsed_s())

    def answered(self, **attributes: Value) -> None:
        """The whole answer has been made; the attributes are the request's span's."""
        self._span.set(**attributes)
        if self._metrics is not None:
            self._metrics.overhead_seconds.observe(self.overhead_s())

    def failed(self, error: BaseException) -> None:
        """Of the error nothing is told but its code or type."""
        self._span.fail(error_kind(error))

    def overhead_s(self) -> float:
        """What the request has taken so far, without the queue, the engine and the scorers."""
        return max(0.0, self._elapsed_s() - sum(self._seconds.get(name, 0.0) for name in NOT_OURS))

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def _note(self, name: Stage, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
        if self._metrics is not None:
            self._metrics.stage_seconds.labels(self._alias, name).observe(seconds)


def traced(task: ChatTask, outcome: Outcome) -> dict[str, Value]:
    """What the request's span says of the answer."""
    reasons = [outcome.judgements[index].candidate.finish_reason for index in outcome.shown]
    return {
        "gen_ai__response__id": task.completion_id,
        "gen_ai__response__model": outcome.assignment.adapter,
        "gen_ai__response__finish_reasons": reasons or ["content_filter"],
        "gen_ai__request__choice__count": task.n,
        "gen_ai__request__max_tokens": task.sampling.max_tokens,
        "gen_ai__request__temperature": task.sampling.temperature,
        "gen_ai__request__top_p": task.sampling.top_p,
        "gen_ai__usage__input_tokens": len(outcome.prompt_token_ids),
        "gen_ai__usage__output_tokens": outcome.generated_tokens,
        "plumbline__best_of": task.best_of,
        "plumbline__generated": len(outcome.judgements),
        "plumbline__generation": outcome.assignment.generation,
        "plumbline__degraded": len(outcome.degraded),
    }
