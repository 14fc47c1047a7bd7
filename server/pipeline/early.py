"""Speculative rejection: candidates grow as requests of their own, and the weaker ones are given up half-way.

They share the prompt's prefix in the engine's cache. Once all that grow have so many tokens (or have ended), their
texts so far are checked and scored, and a share goes on (`reward.selection.early`); the others are aborted in the
engine. They stay in the group as they were, with the finish reason `rejected`. What has ended by itself costs nothing
more, and stays a candidate. Partial texts teach the calibration nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable
from contextlib import aclosing

from reward.selection.early import survivors
from reward.types import REJECTED, Candidate
from server.engine.port import Engine, Generation
from server.pipeline.growing import GrowingAnswer
from server.pipeline.judges import Judges
from server.pipeline.task import ChatTask


async def generate_with_rejection(engine: Engine, model: str, judges: Judges, task: ChatTask) -> Generation:
    """All candidates, in order; raises `EngineError` like `Engine.generate`, when one of them fails."""
    growth = _Growth(engine, model, task)
    try:
        for checkpoint in task.alias.early_reject.checkpoints:
            standing = await growth.reached(checkpoint)
            if len(standing) <= task.choices_wanted or not growth.is_growing:
                break
            judgements, _ = await judges.judge(
                task.prompt, [growth.candidate(index) for index in standing], observe=False, guarded=False
            )
            kept = survivors(judgements, share=task.alias.early_reject.keep, at_least=task.choices_wanted)
            await growth.give_up(index for position, index in enumerate(standing) if position not in kept)
        await growth.ended()
    finally:
        await growth.stop()
    return growth.generation()


class _Growth:
    """The candidates of one request while they grow."""

    def __init__(self, engine: Engine, model: str, task: ChatTask) -> None:
        self._engine = engine
        self._model = model
        self._task = task
        self._answers = [GrowingAnswer() for _ in range(task.best_of)]
        self._streams = [asyncio.create_task(self._grow(index)) for index in range(task.best_of)]
        self._given_up: set[int] = set()
        self._grown = asyncio.Event()

    @property
    def is_growing(self) -> bool:
        return not all(stream.done() for stream in self._streams)

    async def reached(self, tokens: int) -> list[int]:
        """Waits until all that stand have so many tokens, or have ended; who stands."""
        standing = [index for index in range(len(self._answers)) if index not in self._given_up]
        while True:
            for index in standing:
                if self._streams[index].done():
                    self._streams[index].result()
            if all(self._streams[one].done() or len(self._answers[one].token_ids) >= tokens for one in standing):
                return standing
            self._grown.clear()
            await self._grown.wait()

    async def give_up(self, indices: Iterable[int]) -> None:
        """Abort these in the engine, but for those that have ended."""
        given_up = [index for index in indices if not self._streams[index].done()]
        self._given_up.update(given_up)
        await self._end(given_up)

    async def ended(self) -> None:
        await asyncio.gather(*(one for index, one in enumerate(self._streams) if index not in self._given_up))

    async def stop(self) -> None:
        await self._end(range(len(self._streams)))

    def candidate(self, index: int) -> Candidate:
        return self._answers[index].candidate(self._task.assignment.adapter, index)

    def generation(self) -> Generation:
        candidates = [self.candidate(index) for index in range(len(self._answers))]
        for index in self._given_up:
            candidates[index] = dataclasses.replace(candidates[index], finish_reason=REJECTED)
        prompts = [answer.prompt_token_ids for answer in self._answers if answer.prompt_token_ids]
        tokens = tuple(tuple(answer.tokens) for answer in self._answers)
        return Generation(prompts[0] if prompts else (), tuple(candidates), tokens)

    async def _grow(self, index: int) -> None:
        seed = self._task.sampling.seed
        sampling = dataclasses.replace(self._task.sampling, seed=None if seed is None else seed + index)
        try:
            async with aclosing(self._engine.stream(self._model, self._task.prompt, sampling)) as deltas:
                async for delta in deltas:
                    self._answers[index].add(delta)
                    self._grown.set()
        finally:
            self._grown.set()

    async def _end(self, indices: Iterable[int]) -> None:
        streams = [self._streams[index] for index in indices]
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
