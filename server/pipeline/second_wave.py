"""What is tried before a refusal, where every candidate is forbidden: one revision, then one further wave.

1. The best candidate that only rules with `critique_and_revise` forbid is revised once, by the model itself, with those
   rules' instructions. A candidate that a rule forbids altogether is put before no model again.
2. The prompt is answered anew, with the reasons as a hidden instruction.

Both are judged as every candidate is. Both were made from another prompt than the user's, which their `variant` says:
people may see them, and nothing is learned from them. An engine that fails here leaves the refusal.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from reward.types import Action, Judgement, Message, Prompt
from server.engine.port import EngineError, Generation
from server.pipeline.judges import Judges
from server.pipeline.task import ChatTask, Wave

log = logging.getLogger(__name__)

REVISION: Final = "revision"
SECOND_WAVE: Final = "second_wave"

Ask = Callable[[ChatTask], Awaitable[Generation]]
"""The engine's candidates for a task."""


@dataclass(frozen=True, slots=True)
class SecondWave:
    """Tries again for one alias. `clean` makes what a model sampled harmless to template."""

    judges: Judges
    ask: Ask
    clean: Callable[[str], str]

    async def after(self, task: ChatTask, wave: Wave) -> Wave:
        """With what was tried; unchanged where something is feasible, or nothing can be tried."""
        if wave.is_feasible or not any(map(_was_found_unsafe, wave.judgements)):
            return wave  # where rules and guards only failed, more answers would fare no better
        try:
            wave = await self._revised(task, wave)
            if not wave.is_feasible and task.alias.second_wave.enabled:
                wave = await self._anew(task, wave)
        except (EngineError, TimeoutError) as error:
            log.warning("no second wave: %s", error or type(error).__name__)
        return wave

    async def _revised(self, task: ChatTask, wave: Wave) -> Wave:
        revisable = [one for one in wave.judgements if _is_revisable(one)]
        if not revisable:
            return wave
        best = max(revisable, key=lambda one: (one.total is not None, one.total or 0.0, -one.candidate.index))
        reasons = self._reasons([best])
        turns = (
            Message("assistant", (self.clean(best.visible_text),)),
            Message("user", (task.alias.second_wave.revision_prompt.replace("{reasons}", reasons),)),
        )
        prompt = dataclasses.replace(task.prompt, messages=(*task.prompt.messages, *turns))
        return await self._made(task, wave, prompt, 1, REVISION)

    async def _anew(self, task: ChatTask, wave: Wave) -> Wave:
        settings = task.alias.second_wave
        instruction = settings.prompt.replace("{reasons}", self._reasons(wave.judgements))
        count = 1 if task.sampling.temperature == 0 else settings.candidates or task.best_of
        return await self._made(task, wave, with_instruction(task.prompt, instruction), count, SECOND_WAVE)

    async def _made(self, task: ChatTask, wave: Wave, prompt: Prompt, count: int, variant: str) -> Wave:
        so_far = len(wave.judgements)
        seed = task.sampling.seed
        sampling = task.sampling if seed is None else dataclasses.replace(task.sampling, seed=seed + so_far)
        generation = await self.ask(dataclasses.replace(task, prompt=prompt, best_of=count, sampling=sampling))
        candidates = tuple(
            dataclasses.replace(one, index=so_far + number, variant=variant)
            for number, one in enumerate(generation.candidates)
        )
        # Judged as answers to what the user asked: nobody else's words count.
        with task.trace.stage("judge"):
            judgements, degraded = await self.judges.judge(task.prompt, candidates)
        later = Wave(dataclasses.replace(generation, candidates=candidates), judgements, degraded)
        return wave.followed_by(later)

    def _reasons(self, judgements: Sequence[Judgement]) -> str:
        verdicts = [verdict for judgement in judgements for verdict in judgement.verdicts]
        return " ".join(self.judges.policy.instructions(verdicts))


def with_instruction(prompt: Prompt, instruction: str) -> Prompt:
    """The prompt with a further system text: behind the app's own, or as the first turn."""
    first = prompt.messages[0] if prompt.messages else None
    if first is not None and first.role == "system":
        told = dataclasses.replace(first, parts=(*first.parts, f"\n\n{instruction}"))
        return dataclasses.replace(prompt, messages=(told, *prompt.messages[1:]))
    return dataclasses.replace(prompt, messages=(Message("system", (instruction,)), *prompt.messages))


def _was_found_unsafe(judgement: Judgement) -> bool:
    return any(verdict.action.forbids and not verdict.has_failed for verdict in judgement.verdicts)


def _is_revisable(judgement: Judgement) -> bool:
    forbidding = {verdict.action for verdict in judgement.verdicts if verdict.action.forbids}
    return forbidding == {Action.REVISE} and judgement.candidate.is_whole
