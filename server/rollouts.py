"""Rollouts: a learner has prompts that the feed has told of answered anew, by the policy that it trains.

The answers go the way that users' answers go: the alias's input rules, engine, rules, guards and ensemble
(`Pipeline.roll_out`). They are drawn at temperature 1 without any cut, so that the logged log-probabilities are those
they were drawn by. They are shown to nobody and kept nowhere: no group, no signal, no traffic in the metrics.

Asked are only prompts from which the feed would let the alias learn at this moment. So nothing of the hold-out, of
other tenants, or of what was erased or set aside comes out here. Whoever lost the alias's lease gets nothing.

Apps come first: rollouts have a room of their own, and none begins while the service has much to do.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from server.adapters.registry import AdapterRegistry
from server.adapters.routing import Router
from server.config import AliasConfig, Config
from server.engine.port import Sampling
from server.errors import (
    BadRequest,
    Busy,
    EngineUnavailable,
    Forbidden,
    NotFound,
    PlumblineError,
    SafetyUnavailable,
)
from server.ids import new_id
from server.metrics import Metrics
from server.pipeline.admission import Admission
from server.pipeline.pipeline import Pipeline
from server.pipeline.recording import may_train
from server.pipeline.task import Assignment, ChatTask
from server.preferences import derive
from server.prompts import from_row
from server.store import groups, leases, signals
from server.store.blobs import BlobStore
from server.store.database import Database
from server.store.records import GroupRecord, GroupState
from server.training import to_training_group
from server.wire.base import BASE
from server.wire.training import Rollout, RolloutReply, RolloutRequest, TrainingGroup, Unanswered

GONE = frozenset({GroupState.ERASED, GroupState.EXPIRED})
REASONS: Final[Mapping[type[PlumblineError], Unanswered]] = {
    Busy: "busy",
    BadRequest: "too_long",
    EngineUnavailable: "engine",
    SafetyUnavailable: "safety",
}
"""What ends one prompt, and not the others of a call."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request whose asker may ask it."""

    alias: AliasConfig
    assignment: Assignment
    candidates: int
    """Answers to each prompt."""
    seed: int | None
    prompts: Mapping[str, GroupRecord | Unanswered]
    """By id: the group, or why it is not asked again."""
    default_max_tokens: int

    @property
    def most_candidates(self) -> int:
        return self.candidates * sum(isinstance(one, GroupRecord) for one in self.prompts.values())

    @property
    def max_tokens(self) -> int:
        """Of the longest answer there may be."""
        wanted = [self.max_tokens_of(one) for one in self.prompts.values() if isinstance(one, GroupRecord)]
        return max(wanted, default=0)

    def max_tokens_of(self, group: GroupRecord) -> int:
        """An answer may be as long as the one that the app asked for."""
        return int(group.sampling.get("max_tokens") or self.default_max_tokens)


class RolloutDesk:
    """For one event loop. `is_busy`: whether there is too much to do for apps. `clock`: UTC seconds."""

    def __init__(
        self,
        *,
        config: Config,
        database: Database,
        blobs: BlobStore,
        registry: AdapterRegistry,
        router: Router,
        pipeline: Pipeline,
        metrics: Metrics,
        is_busy: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._database = database
        self._blobs = blobs
        self._registry = registry
        self._router = router
        self._pipeline = pipeline
        self._metrics = metrics
        self._is_busy = is_busy
        self._clock = clock
        self._room = Admission(concurrent=config.rollouts.concurrent, queued=config.rollouts.queued)

    async def prepare(self, request: RolloutRequest, alias: AliasConfig) -> Asked:
        """Who is asked what; raises `Forbidden` (`lease_lost`), `NotFound` (the adapter), `BadRequest` or `Busy`."""
        if request.candidates > self._config.chat.max_best_of:
            raise BadRequest(f"candidates may be at most {self._config.chat.max_best_of}.", param="candidates")
        found = await self._database.read(lambda c: self._find(c, request, alias))
        assignment = await self._assignment(request)
        if self._is_busy():
            raise Busy("Apps have the engine to themselves now; try again after the time in Retry-After.")
        return Asked(alias, assignment, request.candidates, request.seed, found, self._config.chat.default_max_tokens)

    async def answer(self, asked: Asked) -> tuple[RolloutReply, int]:
        """A result for each prompt, in order, and how many tokens were generated. Raises `Busy` when none has room."""
        answering = [asyncio.create_task(self._answer(asked, name, one)) for name, one in asked.prompts.items()]
        try:
            results = await asyncio.gather(*answering)
        finally:
            for one in answering:
                one.cancel()
        if all(result.reason == "busy" for result in results):
            raise Busy("Too many prompts of learners are waiting; try again after the time in Retry-After.")
        for result in results:
            self._metrics.learner_prompts.labels(asked.alias.name, result.reason or "answered").inc()
        tokens = sum(len(one.token_ids) for result in results if result.group for one in result.group.candidates)
        return RolloutReply(adapter=asked.assignment.adapter, data=results), tokens

    def _find(
        self, connection: Connection, request: RolloutRequest, alias: AliasConfig
    ) -> dict[str, GroupRecord | Unanswered]:
        lease = leases.get_lease(connection, request.alias)
        if lease is None or lease.token != request.token or lease.expires_at <= self._clock():
            raise Forbidden("This lease was lost; take a new one.", param="token", code="lease_lost")
        known = {group.id: group for group in groups.get_groups(connection, request.group_ids)}
        said = signals.live_signals(connection, request.group_ids)
        return {
            name: _unusable(known.get(name), alias)
            or (known[name] if derive(known[name], said[name], alias.signals) else "set_aside")
            for name in request.group_ids
        }

    async def _assignment(self, request: RolloutRequest) -> Assignment:
        generation = self._router.current(request.alias).generation
        if request.adapter != BASE and (await self._registry.servable(request.adapter)).alias != request.alias:
            raise NotFound("The model does not exist, or is not served.", param="adapter", code="model_not_found")
        return Assignment(request.adapter, generation)

    async def _answer(self, asked: Asked, name: str, one: GroupRecord | Unanswered) -> Rollout:
        try:
            made = one if isinstance(one, str) else await self._in_turn(asked, one)
        except tuple(REASONS) as error:
            made = REASONS[type(error)]
        return Rollout(group_id=name, reason=made) if isinstance(made, str) else Rollout(group_id=name, group=made)

    async def _in_turn(self, asked: Asked, group: GroupRecord) -> TrainingGroup | Unanswered:
        with self._room.join(asked.alias.name) as place:
            await place.turn()
            return "busy" if self._is_busy() else await self._roll_out(asked, group)

    async def _roll_out(self, asked: Asked, group: GroupRecord) -> TrainingGroup | Unanswered:
        sampling = _sampling(asked, group)
        if not sampling.is_on_policy:
            return "constrained"
        prompt = await from_row(group.prompt, self._blobs)
        if prompt is None:
            return "gone"
        task = ChatTask(
            completion_id=new_id("roll"),
            created_at=self._clock(),
            started_s=time.monotonic(),
            alias=asked.alias,
            assignment=asked.assignment,
            tenant=group.tenant,
            user_hash=None,
            prompt=prompt,
            sampling=sampling,
            n=1,
            best_of=asked.candidates,
            strategy=asked.alias.selection.build(None),
            compare=False,
            regenerate_of=None,
            is_stored=False,
        )
        record = await self._pipeline.roll_out(task)
        if not record.prompt_token_ids:
            return "refused"
        teaching = asked.alias.signals.model_copy(update={"reward_groups": True})
        return to_training_group(record, derive(record, [], teaching))


def _unusable(group: GroupRecord | None, alias: AliasConfig) -> Unanswered | None:
    """Why nobody may learn from the group, whatever was said of it."""
    if group is None or group.alias != alias.name or group.tenant not in alias.train_tenants or group.is_holdout:
        return "not_found"
    if group.revision == 0:
        return "not_found"  # the feed never told of it
    if group.state in GONE:
        return "gone"
    return None if may_train(group, alias) else "not_found"


def _sampling(asked: Asked, group: GroupRecord) -> Sampling:
    """The policy's own distribution, for answers of the length and form that the app asked for."""
    kept = group.sampling
    return Sampling(
        max_tokens=asked.max_tokens_of(group),
        stop=tuple(kept.get("stop") or ()),
        seed=_seed(asked.seed, group.id),
        certainty_top_k=asked.alias.certainty_top_k,
        logit_bias=tuple((int(token), float(bias)) for token, bias in kept.get("logit_bias") or ()),
        json_schema=kept.get("json_schema"),
        forced_tools=tuple(kept.get("forced_tools") or ()),
    )


def _seed(seed: int | None, group_id: str) -> int | None:
    """One of its own for each prompt: neighbouring seeds share answers."""
    if seed is None:
        return None
    return int.from_bytes(hashlib.sha256(f"{seed} {group_id}".encode()).digest()[:7])
