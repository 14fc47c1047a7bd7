"""Sentence-level best-of-n: k ways to go on, the best is kept. As Tree-PLV, He et al. 2024, https://arxiv.org/abs/2407.00390.

`selection = "stepwise"`: also as MRGD, with a beam of one. Each step is one engine request for k ways
in which the answer so far goes on, up to the end of a sentence. They share prompt, image and answer so far in the
engine's cache. Rules and scorers read each as the answer that it would make; the highest total is kept, and the next
step goes on from there, until the kept one has come to its end.

1. What is kept must go back into the engine as text. Where the engine would read other tokens than were sampled
   (`Engine.can_extend`), the branch is given up and the next best is taken: what is recorded is what was sampled.
   Where none can go on, the step is made anew, to the answer's end.
2. Guards read a step's candidates once one of them is whole; the calibration learns from steps of whole ones only.
3. The last of `max_steps`, and any that begins after the time of a request, goes to the answer's end.

Each candidate is kept as an answer of its own: what it shares with an earlier one (`Candidate.shared_tokens`), and its
own sentence; `STEP` says that it only paused. Its probability is that the choices lead to it, given the sentences that
were drawn: those of the steps that it went through, multiplied. What only paused has none: it cannot be the answer.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import AsyncGenerator
from typing import Final

from reward.selection import choose
from reward.types import REJECTED, STEP, Candidate, Judgement, Selection
from server.config.selection import STEPWISE
from server.engine.port import Beginning, Delta, Generation, TokenAlternatives
from server.errors import EngineUnavailable
from server.metrics import Metrics
from server.pipeline.asking import Asking
from server.pipeline.judges import Judges
from server.pipeline.task import ChatTask, Step, Wave

EMPTY: Final = Candidate(0, "", "", (), (), STEP)
"""What every answer begins with."""


class Stepwise:
    """One request's search. Run `sentences` to its end, then read the rest."""

    def __init__(
        self,
        task: ChatTask,
        judges: Judges,
        asking: Asking,
        *,
        metrics: Metrics,
        rng: random.Random,
    ) -> None:
        self.task = task
        """As it was answered: by which adapter."""
        self.steps: list[Step] = []
        self._judges = judges
        self._asking = asking
        self._metrics = metrics
        self._rng = rng
        self._judgements: list[Judgement] = []
        self._tokens: list[tuple[TokenAlternatives, ...]] = []
        self._degraded: dict[str, None] = {}
        self._prompt_token_ids: tuple[int, ...] = ()
        self._probability = 1.0

    async def sentences(self) -> AsyncGenerator[Delta]:
        """The answer's sentences as they are decided; the last has the finish reason.

        Ends without one where every candidate of a step is blocked. Raises `EngineUnavailable`.
        """
        kept = EMPTY
        kept_tokens: tuple[TokenAlternatives, ...] = ()
        goes_to_the_end = False
        started_s = time.monotonic()
        while kept.finish_reason == STEP:
            is_late = time.monotonic() - started_s > self._asking.timeout_s
            is_last = goes_to_the_end or is_late or len(self.steps) + 1 >= self.task.alias.stepwise.max_steps
            first = len(self._judgements)
            await self._make(kept, kept_tokens, () if is_last else self.task.alias.stepwise.ends)
            position = await self._choose(first)
            if position is None:
                if any(not one.is_blocked for one in self._judgements[first:]):
                    goes_to_the_end = True  # none could go on
                    continue
                return
            before, kept = kept, self._judgements[position].candidate
            kept_tokens = self._tokens[position]
            yield Delta(
                kept.text[len(before.text) :],
                kept.token_ids[len(before.token_ids) :],
                kept.logprobs[len(before.logprobs) :],
                kept_tokens[len(before.token_ids) :],
                self._prompt_token_ids,
                None if kept.finish_reason == STEP else kept.finish_reason,
            )

    @property
    def wave(self) -> Wave:
        candidates = tuple(one.candidate for one in self._judgements)
        generation = Generation(self._prompt_token_ids, candidates, tuple(self._tokens))
        return Wave(generation, tuple(self._judgements), tuple(self._degraded))

    @property
    def selection(self) -> Selection | None:
        """The whole answer that was chosen; None: there is none."""
        last = self.steps[-1].selection
        if last.index is None or not self._judgements[last.index].candidate.is_whole:
            return None
        return Selection(
            last.index,
            self._probability,
            STEPWISE,
            f"{len(self.steps)} steps, at the last one: {last.reason}",
            tuple(
                last.probabilities[index - self.steps[-1].first] * self._probability / last.probability
                if index >= self.steps[-1].first and one.candidate.is_whole
                else 0.0
                for index, one in enumerate(self._judgements)
            ),
        )

    async def _make(self, kept: Candidate, kept_tokens: tuple[TokenAlternatives, ...], ends: tuple[str, ...]) -> None:
        """One step's candidates, judged."""
        first, sampling = len(self._judgements), self.task.sampling
        left = sampling.max_tokens - len(kept.token_ids)
        seed = None if sampling.seed is None else sampling.seed + first
        wave = dataclasses.replace(self.task, sampling=dataclasses.replace(sampling, max_tokens=left, seed=seed))
        answered, made = await self._asking.extend(wave, Beginning(kept.text, kept.token_ids, ends))
        self.task = dataclasses.replace(self.task, assignment=answered.assignment)
        if self._prompt_token_ids and made.prompt_token_ids != self._prompt_token_ids:
            # The template puts something else before an answer that has begun: no continuation of what was sampled.
            raise EngineUnavailable("The model's chat template cannot continue answers; choose another selection.")
        self._prompt_token_ids = made.prompt_token_ids
        candidates = [_joined(kept, one, first, sampling.max_tokens) for one in made.candidates]
        whole = [one.is_whole for one in candidates]
        with self.task.trace.stage("judge"):
            judgements, degraded = await self._judges.judge(
                self.task.prompt, candidates, observe=all(whole), guarded=any(whole)
            )
        self._judgements += judgements
        self._tokens += (kept_tokens + one for one in made.tokens)
        self._degraded |= dict.fromkeys(degraded)

    async def _choose(self, first: int) -> int | None:
        """The step's best that is whole or can go on; None: there is none. Notes the step."""
        while True:
            siblings = [_as_an_answer(one) for one in self._judgements[first:]]
            selection = choose(
                self.task.strategy, siblings, explore=self.task.alias.random_share, draw=self._rng.random()
            )
            if selection.index is None:
                if any(not one.is_blocked for one in siblings):
                    selection = dataclasses.replace(selection, reason="none of those that no rule blocks could go on")
                self.steps.append(Step(first, len(siblings), selection))
                return None
            position = first + selection.index
            if await self._can_go_on(self._judgements[position].candidate):
                self.steps.append(Step(first, len(siblings), dataclasses.replace(selection, index=position)))
                self._probability *= selection.probability
                return position
            self._give_up(position)

    async def _can_go_on(self, one: Candidate) -> bool:
        return one.is_whole or await self._asking.can_extend(Beginning(one.text, one.token_ids))

    def _give_up(self, position: int) -> None:
        self._metrics.stepwise_dropped.labels(self.task.alias.name).inc()
        one = self._judgements[position]
        given_up = dataclasses.replace(one.candidate, finish_reason=REJECTED)
        self._judgements[position] = dataclasses.replace(one, candidate=given_up)


def _joined(kept: Candidate, added: Candidate, first: int, max_tokens: int) -> Candidate:
    """What was kept, and what was added, as one answer."""
    token_ids = kept.token_ids + added.token_ids
    is_cut = added.finish_reason == STEP and len(token_ids) >= max_tokens
    return dataclasses.replace(
        added,
        index=first + added.index,
        text=kept.text + added.text,
        token_ids=token_ids,
        logprobs=kept.logprobs + added.logprobs,
        finish_reason="length" if is_cut else added.finish_reason,
        alternatives=kept.alternatives + added.alternatives,
        shared_tokens=len(kept.token_ids),
    )


def _as_an_answer(judgement: Judgement) -> Judgement:
    """What only paused may be chosen at its step."""
    if judgement.candidate.finish_reason != STEP:
        return judgement
    return dataclasses.replace(judgement, candidate=dataclasses.replace(judgement.candidate, finish_reason="stop"))
