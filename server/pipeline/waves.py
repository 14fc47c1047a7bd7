"""`best_of: "auto"`: candidates in waves, until another one is not worth its cost (`reward.selection.stopping`).

Wave k uses the seed plus the number of candidates so far, so that the candidates are those of one large request. Each
wave is judged as it comes; totals are compared anew after each, of one calibration and without the scorers that failed
for one of the waves. What a later wave fails with is no failure of the answer: it is chosen from what is there.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from reward.selection.stopping import Habits, Pandora, novelty
from reward.types import Judgement
from server.engine.port import Generation
from server.errors import EngineUnavailable
from server.pipeline.judges import Judges
from server.pipeline.task import ChatTask, Wave

log = logging.getLogger(__name__)

Generate = Callable[[ChatTask], Awaitable[tuple[ChatTask, Generation]]]
"""`best_of` candidates of a task; the task as it was answered (by which adapter). Raises `EngineUnavailable`."""


class Waves:
    """An alias's waves, and what its prompts are like. Of one event loop."""

    def __init__(self, judges: Judges, timeout_s: float) -> None:
        """`timeout_s`: once so much time has passed no further wave begins."""
        self._judges = judges
        self._timeout_s = timeout_s
        self._habits = Habits()

    async def answer(self, task: ChatTask, generate: Generate) -> tuple[ChatTask, Wave]:
        """The task as it was answered, and all waves as one."""
        settings = task.alias.auto
        rule = Pandora(settings.cost, self._habits.prior())
        all_waves = Wave.empty()
        started_s = time.monotonic()
        size = max(settings.first_wave, task.choices_wanted)
        while (so_far := len(all_waves.judgements)) < task.best_of:
            try:
                answered, made = await generate(_wave(task, so_far, min(size, task.best_of - so_far)))
            except EngineUnavailable:
                if not so_far:
                    raise
                log.warning("a further wave failed; the answer is chosen from %d candidates", so_far)
                break
            task = dataclasses.replace(task, assignment=answered.assignment)
            numbered = tuple(dataclasses.replace(one, index=so_far + one.index) for one in made.candidates)
            with task.trace.stage("judge"):
                found, failed = await self._judges.judge(task.prompt, numbered, always=True)
            wave = Wave(dataclasses.replace(made, candidates=numbered), found, failed)
            all_waves = all_waves.followed_by(wave) if so_far else wave
            judgements = self._judges.compared(all_waves.judgements, all_waves.degraded)
            all_waves = dataclasses.replace(all_waves, judgements=judgements)
            if not so_far:
                self._habits.observe(_totals(judgements))
            is_late = time.monotonic() - started_s > self._timeout_s
            if is_late or not _wants_more(rule, judgements, task.choices_wanted):
                break
            size = settings.wave
        return task, all_waves


def _wave(task: ChatTask, so_far: int, size: int) -> ChatTask:
    seed = task.sampling.seed
    sampling = dataclasses.replace(task.sampling, seed=None if seed is None else seed + so_far)
    return dataclasses.replace(task, best_of=size, sampling=sampling)


def _wants_more(rule: Pandora, judgements: tuple[Judgement, ...], choices: int) -> bool:
    feasible = [one for one in judgements if one.is_feasible]
    if len(feasible) < choices:
        return True
    totals = _totals(feasible)
    # Without a scorer nothing tells them apart: more is no better.
    return bool(totals) and rule.wants_more(totals, novelty([one.candidate.text for one in feasible]))


def _totals(judgements: Sequence[Judgement]) -> list[float]:
    """Of equal answers one, the highest."""
    found: dict[str, float] = {}
    for one in judgements:
        if one.total is not None:
            found[one.candidate.text] = max(one.total, found.get(one.candidate.text, one.total))
    return list(found.values())
