"""What a request asks of the engine, and what an engine's failures are to its caller."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from server.engine.port import (
    Beginning,
    Engine,
    EngineError,
    Generation,
    PromptTooLong,
    RefusedParameter,
    UnknownModel,
)
from server.errors import BadRequest, EngineUnavailable
from server.pipeline.early import generate_with_rejection
from server.pipeline.growing import GrowingAnswer
from server.pipeline.judges import Judges
from server.pipeline.task import ChatTask
from server.wire.base import BASE

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asking:
    """One engine, for tasks of every alias. Each call is bounded by `timeout_s`."""

    engine: Engine
    judges: Mapping[str, Judges]
    timeout_s: float

    async def generate(self, task: ChatTask, *, may_be_base: bool = True) -> tuple[ChatTask, Generation]:
        """The candidates; where the engine cannot load the adapter, the base model's (I6: always a way back).

        Raises `EngineUnavailable` or `BadRequest`, as `extend` and `pieces` do.
        """
        with task.trace.stage("generate"):
            return await self._or_base(task, self._ask, may_be_base=may_be_base)

    async def extend(self, task: ChatTask, beginning: Beginning) -> tuple[ChatTask, Generation]:
        """How an answer may go on (`Engine.extend`); only what has not begun may be the base model's instead."""

        async def ask(one: ChatTask) -> Generation:
            model = self._model(one)
            made = await self.engine.extend(model, one.prompt, beginning, one.best_of, one.sampling)
            return _named(made, one.assignment.adapter)

        with task.trace.stage("generate"):
            return await self._or_base(task, ask, may_be_base=not beginning.token_ids)

    async def can_extend(self, beginning: Beginning) -> bool:
        """Whether the engine can go on from there (`Engine.can_extend`)."""
        with _engine_errors():
            async with asyncio.timeout(self.timeout_s):
                return await self.engine.can_extend(beginning)

    async def ask_again(self, task: ChatTask) -> Generation:
        """Raises `EngineError` or `TimeoutError`."""
        with task.trace.stage("generate"):
            async with asyncio.timeout(self.timeout_s):
                return await self._ask(task)

    async def pieces(self, task: ChatTask, parts: GrowingAnswer) -> AsyncGenerator[None]:
        """Fills `parts` as pieces arrive; yields after each."""
        answer = self.engine.stream(self._model(task), task.prompt, task.sampling)
        with task.trace.stage("generate"), _engine_errors():
            async with asyncio.timeout(self.timeout_s), aclosing(answer):
                async for delta in answer:
                    parts.add(delta)
                    yield

    async def _or_base(
        self, task: ChatTask, ask: Callable[[ChatTask], Awaitable[Generation]], *, may_be_base: bool = True
    ) -> tuple[ChatTask, Generation]:
        with _engine_errors():
            async with asyncio.timeout(self.timeout_s):
                try:
                    return task, await ask(task)
                except UnknownModel:
                    if task.assignment.adapter == BASE or not may_be_base:
                        raise
                    log.exception("the engine cannot load %s; base answers", task.assignment.adapter)
                    task = dataclasses.replace(task, assignment=dataclasses.replace(task.assignment, adapter=BASE))
                    return task, await ask(task)

    async def _ask(self, task: ChatTask) -> Generation:
        if task.rejects_early:
            judges = self.judges[task.alias.name]
            return await generate_with_rejection(self.engine, self._model(task), judges, task)
        made = await self.engine.generate(self._model(task), task.prompt, task.best_of, task.sampling)
        return _named(made, task.assignment.adapter)

    def _model(self, task: ChatTask) -> str:
        return self.engine.base_model if task.assignment.adapter == BASE else task.assignment.adapter


def _named(generation: Generation, adapter: str) -> Generation:
    """Candidates with the adapter's id: the engine has a name of its own for the base model."""
    named = tuple(dataclasses.replace(one, adapter=adapter) for one in generation.candidates)
    return dataclasses.replace(generation, candidates=named)


@contextlib.contextmanager
def _engine_errors() -> Iterator[None]:
    try:
        yield
    except PromptTooLong:
        raise BadRequest(
            "The conversation and max_tokens do not fit the model's context; shorten it.",
            param="messages",
            code="context_length_exceeded",
        ) from None
    except RefusedParameter as error:
        raise _refused_parameter(error) from None
    except (EngineError, TimeoutError) as error:
        log.warning("engine: %s", error or type(error).__name__)
        raise EngineUnavailable("No engine can answer now; try again after the time in Retry-After.") from error


def _refused_parameter(error: RefusedParameter) -> BadRequest:
    if error.parameter == "logit_bias":
        return BadRequest("logit_bias names a token id outside the model's vocabulary.", param="logit_bias")
    return BadRequest(
        "The engine cannot hold an answer to this schema; make it simpler.",
        param="response_format" if error.parameter == "json_schema" else "tools",
    )
