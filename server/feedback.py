"""What people say, on its way into the store: found, checked, kept once, told to the feed."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from reward.types import Prompt
from server import agreement, faults, opinions, prompts, regenerations
from server.answers import AnswerIntake
from server.config import Config, SignalsConfig
from server.engine.port import Engine, EngineError
from server.errors import BadRequest, EngineUnavailable, Gone, NotFound, RateLimited, StorageUnavailable
from server.ids import new_id
from server.inflight import InFlight
from server.metrics import Metrics
from server.opinions import Opinion
from server.pipeline.recording import may_train
from server.preferences import derive
from server.store import feed, groups, idempotency, signals
from server.store.blobs import BlobStore
from server.store.database import Database
from server.store.records import HUMAN, CandidateRecord, FeedKind, GroupRecord, GroupState, SignalKind, SignalRecord
from server.wire.signals import FeedbackRequest, PreferenceRequest, SignalReply

HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Speaker:
    """In whose name something is said."""

    tenant: str
    annotator: str
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class _Statement:
    """One request: who speaks, what it is about, and the digest that a repetition shares."""

    speaker: Speaker
    completion_id: str
    digest: str

    @classmethod
    def of(cls, speaker: Speaker, request: FeedbackRequest | PreferenceRequest) -> _Statement:
        said = f"{speaker.annotator}\n{request.model_dump_json()}"
        return cls(speaker, request.completion_id, hashlib.sha256(said.encode()).hexdigest())


class FeedbackDesk:
    """Takes feedback and preferences. A reply means: durable.

    Both methods raise `NotFound`, `Gone`, `BadRequest`, `RateLimited`, `IdempotencyMismatch`, or, where trying again
    helps, `AnswerPending`, `EngineUnavailable` or `StorageUnavailable`.
    """

    def __init__(
        self,
        *,
        config: Config,
        database: Database,
        blobs: BlobStore,
        engine: Engine,
        intake: AnswerIntake,
        in_flight: InFlight,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._aliases = {alias.name: alias for alias in config.aliases}
        self._database = database
        self._blobs = blobs
        self._engine = engine
        self._intake = intake
        self._in_flight = in_flight
        self._metrics = metrics
        self._clock = clock

    async def give_feedback(self, speaker: Speaker, request: FeedbackRequest) -> SignalReply:
        """Keep a rating, correction, comment or labels."""
        statement = _Statement.of(speaker, request)
        found = await self._find(statement)
        if isinstance(found, SignalReply):
            return found
        candidate = opinions.judged(found, request.candidate_id)
        correction = await self._correction(found, request.correction) if request.correction else None
        said = opinions.of_feedback(request, candidate, correction)
        return await self._keep(statement, found, said, candidate, correction)

    async def give_preference(self, speaker: Speaker, request: PreferenceRequest) -> SignalReply:
        """Keep a choice, a ranking or a tie."""
        statement = _Statement.of(speaker, request)
        found = await self._find(statement)
        if isinstance(found, SignalReply):
            return found
        return await self._keep(statement, found, [opinions.of_preference(found, request)])

    async def _find(self, statement: _Statement) -> GroupRecord | SignalReply:
        """The group that is spoken of; or the reply that the same request got before, whatever became of the group."""
        tenant = statement.speaker.tenant
        await self._in_flight.settled(tenant, statement.completion_id)

        def look(connection: Connection) -> GroupRecord | SignalReply:
            if (earlier := _earlier_reply(connection, statement)) is not None:
                return earlier
            group = groups.get_group(connection, statement.completion_id)
            if group is None:
                self._in_flight.require_no_promise(tenant, statement.completion_id)
            if group is None or group.tenant != tenant:
                raise _unknown()
            _require_kept(group.state)
            self._require_room(connection, statement.speaker, group)
            return group

        return await self._database.read(look)

    def _require_room(self, connection: Connection, speaker: Speaker, group: GroupRecord) -> None:
        alias = self._aliases.get(group.alias)
        most = (alias.signals if alias is not None else SignalsConfig()).max_per_hour
        at, now = signals.nth_newest_at(connection, speaker.annotator, most), self._clock()
        if at is not None and now - HOUR_S < at <= now:  # later than now: the clock was set back
            raise RateLimited(
                "That is more than one person can mean in an hour. An app that speaks for many names each as `user`.",
                retry_after_s=math.ceil(at + HOUR_S - now),
            )

    async def _correction(self, group: GroupRecord, typed: str) -> CandidateRecord:
        """The typed answer as a candidate, tokenised by the engine where the group may be trained on."""
        text = self._intake.clean(typed)
        token_ids: tuple[int, ...] = ()
        logprobs: tuple[float, ...] = ()
        prompt = Prompt(())
        if group.state is GroupState.COMPLETED:
            asked = await prompts.from_row(group.prompt, self._blobs)
            if asked is None:
                raise StorageUnavailable("an image of the group cannot be read")
            prompt = asked
            try:
                scored = await self._engine.score(self._engine.base_model, prompt, text)
            except EngineError as error:
                if not error.retryable:
                    raise BadRequest("The correction does not fit the model's context.", param="correction") from None
                raise EngineUnavailable("No engine can tokenise the correction now; try again.") from error
            token_ids, logprobs = scored.token_ids, scored.logprobs
        return await self._intake.candidate(
            group.alias,
            group.id,
            f"c{new_id('x')[-8:]}",
            text,
            prompt=prompt,
            adapter=HUMAN,
            position=len(group.candidates),
            token_ids=token_ids,
            logprobs=logprobs,
            is_shown=False,
        )

    async def _keep(
        self,
        statement: _Statement,
        group: GroupRecord,
        said: Sequence[Opinion],
        candidate: CandidateRecord | None = None,
        correction: CandidateRecord | None = None,
    ) -> SignalReply:
        speaker = statement.speaker
        alias = self._aliases.get(group.alias)
        may_teach = alias is not None and may_train(group, alias)
        now = self._clock()
        kept = [
            SignalRecord(new_id("sig"), group.id, one.kind, one.slot, speaker.annotator, now, one.payload)
            for one in said
        ]
        is_trainable = alias is not None and may_teach and _teaches(group, correction, kept, alias.signals)
        reply = SignalReply(id=kept[0].id, completion_id=group.id, trainable=is_trainable)

        def write(connection: Connection) -> SignalReply:
            if (earlier := _earlier_reply(connection, statement)) is not None:
                return earlier
            _require_kept(groups.get_state(connection, group.id))
            self._require_room(connection, speaker, group)
            if correction is not None:
                groups.add_candidate(connection, group.id, correction)
            told: list[tuple[GroupRecord, FeedKind]] = []
            overrides = [signals.insert_signal(connection, signal) for signal in kept]
            if any(one.kind is not SignalKind.COMMENT for one in said):
                told.append((group, FeedKind.OVERRIDE if any(overrides) else FeedKind.SIGNAL))
            for signal in kept:
                if signal.kind is SignalKind.RATING and candidate is not None:
                    again = regenerations.note(connection, group, candidate, signal)
                    told += [again] if again is not None else []
            for one, kind in told if may_teach else []:
                feed.append(connection, one.alias, one.id, kind, now)
            if speaker.idempotency_key is not None:
                idempotency.keep_reply(
                    connection,
                    speaker.tenant,
                    speaker.idempotency_key,
                    annotator=speaker.annotator,
                    request_hash=statement.digest,
                    reply=reply.model_dump(),
                    now=now,
                )
            faults.point("feedback.before_commit")
            return reply

        answer = await self._database.write(write)
        await faults.async_point("feedback.after_commit")
        if answer is reply:  # and not one that was kept before
            for signal in kept:
                self._count(group, signal)
        return answer

    def _count(self, group: GroupRecord, signal: SignalRecord) -> None:
        alias = self._metrics.alias(group.alias)
        self._metrics.signals.labels(alias, signal.kind).inc()
        settings = self._aliases.get(group.alias)
        known = {agreement.ENSEMBLE, *(one.label for one in (settings.scorers if settings is not None else ()))}
        for scorer, verdict in agreement.compared(group, signal.kind, signal.payload):
            self._metrics.agreement.labels(alias, scorer if scorer in known else "other", verdict).inc()


def _teaches(
    group: GroupRecord, correction: CandidateRecord | None, said: Sequence[SignalRecord], settings: SignalsConfig
) -> bool:
    """Whether any example follows from what was said."""
    added = (correction,) if correction is not None else ()
    examples = derive(dataclasses.replace(group, candidates=(*group.candidates, *added)), said, settings)
    teachers = [pair.annotator for pair in examples.pairs] + [one.annotator for one in examples.unpaired]
    return said[0].annotator in teachers


def _earlier_reply(connection: Connection, statement: _Statement) -> SignalReply | None:
    """What the same Idempotency-Key was answered; raises `IdempotencyMismatch` where it came with another body."""
    speaker = statement.speaker
    if speaker.idempotency_key is None:
        return None
    kept = idempotency.find_reply(connection, speaker.tenant, speaker.idempotency_key, statement.digest)
    return SignalReply.model_validate(kept) if kept is not None else None


def _unknown() -> NotFound:
    return NotFound(
        "There is no such completion: send the id of a chat reply. What was asked with store: false is not kept.",
        param="completion_id",
        code="response_not_found",
    )


def _require_kept(state: GroupState | None) -> None:
    if state is None:
        raise _unknown()
    if state in {GroupState.ERASED, GroupState.EXPIRED}:
        raise Gone("This completion is no longer kept.", param="completion_id")
