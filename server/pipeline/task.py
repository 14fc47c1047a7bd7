"""What the pipeline is asked for, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, Self

from reward.selection import Strategy
from reward.types import Judgement, Prompt, Selection
from server.config import AliasConfig
from server.engine.port import Generation, Sampling, TokenAlternatives
from server.pipeline.trace import Trace
from server.store.records import GroupState


@dataclass(frozen=True, slots=True)
class Assignment:
    """Who serves a request: adapter id or "base", at one generation of the alias's routing."""

    adapter: str
    generation: int
    is_canary: bool = False


@dataclass(frozen=True, slots=True)
class ChatTask:
    """One admitted, validated request."""

    completion_id: str
    created_at: float
    started_s: float
    """When it was admitted, on the monotonic clock."""
    alias: AliasConfig
    assignment: Assignment
    tenant: str
    user_hash: str | None
    prompt: Prompt
    sampling: Sampling
    n: int
    best_of: int
    """Candidates to generate; at most, where they come in waves."""
    strategy: Strategy
    compare: bool | Literal["auto"]
    regenerate_of: str | None
    is_stored: bool
    calls_tools: bool = False
    """Whether the answer may call the prompt's tools."""
    is_adaptive: bool = False
    """Candidates come in waves, until another is not worth its cost (`server.pipeline.waves`)."""
    rejects_early: bool = False
    """The weaker candidates are given up while they grow (`server.pipeline.early`)."""
    beside: str | None = None
    """The policy whose answer is shown for comparison (`server.pipeline.exploring`); None: the assigned one's."""
    is_stepwise: bool = False
    """The answer is chosen sentence by sentence (`server.pipeline.stepwise`)."""
    trace: Trace = field(default_factory=Trace, compare=False, repr=False)
    """Where its time goes; the same of all tasks that are made from this one."""

    @property
    def candidates(self) -> int:
        """How many are generated at most, that of another policy included."""
        return self.best_of + (self.beside is not None)

    @property
    def choices_wanted(self) -> int:
        """How many candidates the reply has room for."""
        return max(self.n, 2 if self.compare else 1)


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a streamed answer that may leave: its text, and the tokens whose text is out with it."""

    text: str
    tokens: tuple[TokenAlternatives, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a stepwise answer: `count` candidates from `first` on, and which of them was kept, by position."""

    first: int
    count: int
    selection: Selection


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. `shown` are indices of `judgements`, the winner first; empty when all were blocked."""

    assignment: Assignment
    prompt_token_ids: tuple[int, ...]
    judgements: tuple[Judgement, ...]
    selection: Selection
    shown: tuple[int, ...]
    degraded: tuple[str, ...] = ()
    tokens: tuple[tuple[TokenAlternatives, ...], ...] = ()
    state: GroupState = GroupState.COMPLETED
    reward: float | None = None
    """Of the answer shown first (`Judges.reward`)."""
    steps: tuple[Step, ...] = ()
    """Of a stepwise answer."""

    @property
    def is_refused(self) -> bool:
        return self.state is GroupState.COMPLETED and not self.shown

    @property
    def generated_tokens(self) -> int:
        candidates = [judgement.candidate for judgement in self.judgements]
        return sum(len(one.token_ids) - one.shared_tokens for one in candidates)


@dataclass(frozen=True, slots=True)
class Wave:
    """Candidates and what was found about them."""

    generation: Generation
    judgements: tuple[Judgement, ...]
    degraded: tuple[str, ...] = ()

    @classmethod
    def empty(cls) -> Self:
        return cls(Generation((), ()), ())

    @property
    def is_feasible(self) -> bool:
        return any(judgement.is_feasible for judgement in self.judgements)

    def followed_by(self, later: Wave) -> Wave:
        """Both, as one: the prompt's tokens are the first one's."""
        generation = replace(
            self.generation,
            candidates=self.generation.candidates + later.generation.candidates,
            tokens=self.generation.tokens + later.generation.tokens,
        )
        degraded = tuple(dict.fromkeys(self.degraded + later.degraded))
        return Wave(generation, self.judgements + later.judgements, degraded)
