"""A pool of judged answers for `benchmarks.best_of_n`, and what selection makes of it. No I/O.

The engine's answers are made once; which of them a request would have got is resampled. Choices are the service's own
(`reward.selection`), and count by their exact probabilities: nothing is drawn that can be computed. `best_of: "auto"`
runs through the server's own waves (`server.pipeline.waves`), with the pool in the engine's place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from reward.ensemble import Calibration, Ensemble, Member
from reward.selection import Strategy, choose
from reward.types import Candidate, Judgement, Prompt
from server.config import AliasConfig
from server.engine.port import Generation, Sampling
from server.pipeline.judges import Judges
from server.pipeline.policies import build_policy
from server.pipeline.task import Assignment, ChatTask
from server.pipeline.waves import Waves
from server.wire.base import BASE

SETS = 16
"""Of each size, drawn from a prompt's answers, so that each answer is in equally many; more where the sets are tiny."""
RESAMPLES = 4000
SEED = 0

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pool:
    """Answers to many prompts, equally many to each. Arrays: (prompts, answers)."""

    texts: Sequence[Sequence[str]]
    is_right: NDArray[np.bool_]
    scores: Floats
    """As the scorer gave them."""
    totals: Floats
    """As the service calibrated them when it answered."""

    @property
    def prompts(self) -> int:
        return len(self.texts)

    @property
    def answers(self) -> int:
        return int(self.is_right.shape[1])

    def judgements(self, prompt: int) -> list[Judgement]:
        pairs = zip(self.texts[prompt], self.totals[prompt].tolist(), strict=True)
        return [Judgement(_candidate(at, text), (), (), total) for at, (text, total) in enumerate(pairs)]


def _candidate(index: int, text: str) -> Candidate:
    return Candidate(index, BASE, text, (), (), "stop")


def quality(pool: Pool, strategy: Strategy, size: int) -> Floats:
    """Of each prompt: the chance that the answer chosen among so many is right. `size` divides the pool's answers."""
    rng = np.random.default_rng([SEED, size])
    orders = max(1, SETS * size // pool.answers) if size < pool.answers else 1
    found = np.zeros(pool.prompts)
    for prompt in range(pool.prompts):
        judgements, is_right = pool.judgements(prompt), pool.is_right[prompt]
        for _ in range(orders):
            for part in rng.permutation(pool.answers).reshape(-1, size):
                chances = choose(strategy, [judgements[at] for at in part]).probabilities
                found[prompt] += np.dot(chances, is_right[part])
    return found / (orders * pool.answers // size)


@dataclass(frozen=True, slots=True)
class Adaptive:
    """What `best_of: "auto"` did. (prompts,) each: candidates made, and the chance that the chosen one is right; with
    as many candidates for everybody, from one on: `fixed`, (numbers, prompts).
    """

    candidates: Floats
    quality: Floats
    fixed: Floats

    def evenly(self, prompts: NDArray[np.int64]) -> tuple[float, float]:
        """The quality of as many candidates as `auto` makes, the same number for everybody, and that of eight."""
        by_number = self.fixed[:, prompts].mean(axis=1)
        same = np.interp(self.candidates[prompts].mean(), np.arange(1, len(by_number) + 1), by_number)
        return float(same), float(by_number[7])

    def gap_closed(self, prompts: NDArray[np.int64]) -> float:
        """How far `auto` gets from the one to the other. Where eight are no better there is no
        gap: infinite, with the sign of what `auto` gains.
        """
        same, eight = self.evenly(prompts)
        gain, gap = float(self.quality[prompts].mean()) - same, eight - same
        return gain / gap if gap > 0 else math.copysign(math.inf, gain)


async def adaptive(
    pool: Pool, alias: AliasConfig, strategy: Strategy, rounds: int, tick: Callable[[], None] = lambda: None
) -> Adaptive:
    """Every prompt so often, each time with its answers in another order; totals are calibrated as they come."""
    rng = np.random.default_rng(SEED)
    recorded = _Recorded()
    judges = Judges(build_policy(alias), Ensemble((Member(recorded),), calibration=Calibration()))
    waves = Waves(judges, timeout_s=60.0)
    largest = alias.auto.max_candidates
    candidates, found = np.zeros(pool.prompts), np.zeros(pool.prompts)
    fixed = np.zeros((largest, pool.prompts))
    for _ in range(rounds):
        for prompt in rng.permutation(pool.prompts):
            order = rng.permutation(pool.answers)[:largest]
            texts, is_right = pool.texts[prompt], pool.is_right[prompt, order]
            recorded.scores = dict(zip(texts, pool.scores[prompt].tolist(), strict=True))
            made = [_candidate(at, texts[which]) for at, which in enumerate(order)]
            _, wave = await waves.answer(_task(alias, strategy), _Answers(made))
            chances = choose(strategy, wave.judgements).probabilities
            candidates[prompt] += len(chances)
            found[prompt] += np.dot(chances, is_right[: len(chances)])
            totals = pool.judgements(prompt)
            for number in range(1, largest + 1):
                evenly = choose(strategy, [totals[which] for which in order[:number]]).probabilities
                fixed[number - 1, prompt] += np.dot(evenly, is_right[:number])
        tick()
    return Adaptive(candidates / rounds, found / rounds, fixed / rounds)


class _Recorded:
    """A scorer that knows the scores of one prompt's answers."""

    name = "noisy"
    version = "1"

    def __init__(self) -> None:
        self.scores: Mapping[str, float] = {}

    async def score(self, _: Prompt, candidates: Sequence[Candidate]) -> list[float | None]:
        return [self.scores[one.text] for one in candidates]


@dataclass(frozen=True, slots=True)
class _Answers:
    """In the engine's place: a wave's seed says how many came before it."""

    made: Sequence[Candidate]

    async def __call__(self, task: ChatTask) -> tuple[ChatTask, Generation]:
        assert task.sampling.seed is not None
        part = self.made[task.sampling.seed : task.sampling.seed + task.best_of]
        return task, Generation((), tuple(replace(one, index=at) for at, one in enumerate(part)))


def _task(alias: AliasConfig, strategy: Strategy) -> ChatTask:
    return ChatTask(
        completion_id="pool",
        created_at=0.0,
        started_s=0.0,
        alias=alias,
        assignment=Assignment(BASE, 0),
        tenant="default",
        user_hash=None,
        prompt=Prompt(()),
        sampling=Sampling(max_tokens=1, seed=0),
        n=1,
        best_of=alias.auto.max_candidates,
        strategy=strategy,
        compare=False,
        regenerate_of=None,
        is_stored=False,
        is_adaptive=True,
    )


def interval(prompts: int, estimate: Callable[[NDArray[np.int64]], float]) -> tuple[float, float]:
    """95% percentile bootstrap over prompts; `estimate` gets the positions of the prompts that were drawn."""
    rng = np.random.default_rng(SEED)
    drawn = [estimate(rng.integers(0, prompts, prompts)) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
