"""What people say, on its way into the store: found, checked, kept once, told to the feed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Connection

from server import prompts
from server.config import Config
from server.engine.port import Engine, EngineError
from server.errors import BadRequest, EngineUnavailable, Gone, NotFound, StorageUnavailable
from server.ids import candidate_id, new_id
from server.metrics import Metrics
from server.pipeline.recording import may_train
from server.store import feed, groups, idempotency, signals
from server.store.blobs import BlobStore
from server.store.database import Database
from server.store.records import CandidateRecord, FeedKind, GroupRecord, GroupState, SignalKind, SignalRecord
from server.wire import FeedbackRequest, PreferenceRequest, SignalReply

HUMAN = "human"
"""Adapter name of a correction typed by a person."""

RATINGS = {"up": 1.0, "down": -1.0}


@dataclass(frozen=True, slots=True)
class Speaker:
    """In whose name something is said."""

    tenant: str
    annotator: str
    idempotency_key: str | None = None


class FeedbackDesk:
    """Takes feedback and preferences. A reply means: durable."""

    def __init__(
        self,
        *,
        config: Config,
        database: Database,
        blobs: BlobStore,
        engine: Engine,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._aliases = {alias.name: alias for alias in config.aliases}
        self._database = database
        self._blobs = blobs
        self._engine = engine
        self._metrics = metrics
        self._clock = clock

    async def give_feedback(self, speaker: Speaker, request: FeedbackRequest) -> SignalReply:
        """Keep a rating, correction, comment or labels; raises `NotFound`, `Gone` or `BadRequest`."""
        group = await self._find_group(speaker, request.completion_id)
        candidate = _shown_candidate(group, request.candidate_id, "candidate_id")
        correction = await self._correction(group, request.correction) if request.correction else None
        kept = self._signals_of(speaker, group, candidate, request, correction)
        return await self._keep(speaker, request, group, kept, correction)

    async def give_preference(self, speaker: Speaker, request: PreferenceRequest) -> SignalReply:
        """Keep a choice, a ranking or a tie; raises `NotFound`, `Gone` or `BadRequest`."""
        group = await self._find_group(speaker, request.completion_id)
        named = {"chosen": [request.chosen] if request.chosen else [], "rejected": request.rejected or []}
        named["ranking"] = request.ranking or []
        for param, ids in named.items():
            for one in ids:
                _shown_candidate(group, one, param)
        kind: SignalKind
        payload: dict[str, Any]
        if request.ranking is not None:
            kind, payload = SignalKind.RANKING, {"ranking": request.ranking}
        elif request.tie is not None:
            kind, payload = SignalKind.TIE, {"tie": request.tie}
        else:
            kind, payload = SignalKind.CHOICE, {"chosen": request.chosen, "rejected": request.rejected}
        return await self._keep(speaker, request, group, [self._signal(speaker, group, kind, "comparison", payload)])

    async def _find_group(self, speaker: Speaker, completion_id: str) -> GroupRecord:
        group = await self._database.read(lambda c: groups.get_group(c, completion_id))
        if group is None or group.tenant != speaker.tenant:
            raise NotFound("There is no such completion.", param="completion_id", code="response_not_found")
        if group.state in {GroupState.ERASED, GroupState.EXPIRED}:
            raise Gone("This completion is no longer kept.", param="completion_id")
        return group

    def _signals_of(
        self,
        speaker: Speaker,
        group: GroupRecord,
        candidate: CandidateRecord,
        request: FeedbackRequest,
        correction: CandidateRecord | None,
    ) -> list[SignalRecord]:
        said: dict[str, Any] = {"candidate_id": candidate.id}
        if request.comment is not None:
            said["comment"] = request.comment
        if request.labels:
            said["labels"] = request.labels
        kept = []
        if request.rating is not None:
            rating = RATINGS[request.rating] if isinstance(request.rating, str) else request.rating
            payload = {**said, "rating": rating}
            kept.append(self._signal(speaker, group, SignalKind.RATING, f"rating:{candidate.id}", payload))
        if correction is not None:
            payload = {**said, "correction_id": correction.id}
            kept.append(self._signal(speaker, group, SignalKind.CORRECTION, f"correction:{candidate.id}", payload))
        return kept or [self._signal(speaker, group, SignalKind.COMMENT, f"comment:{candidate.id}", said)]

    def _signal(
        self, speaker: Speaker, group: GroupRecord, kind: SignalKind, slot: str, payload: dict[str, Any]
    ) -> SignalRecord:
        return SignalRecord(new_id("sig"), group.id, kind, slot, speaker.annotator, self._clock(), payload)

    async def _correction(self, group: GroupRecord, text: str) -> CandidateRecord:
        """The typed answer as a candidate, tokenised by the engine; no end-of-turn token is invented for it."""
        prompt = await prompts.from_row(group.prompt, self._blobs)
        if prompt is None:
            raise StorageUnavailable("an image of the group cannot be read")
        try:
            scored = await self._engine.score(self._engine.base_model, prompt, text)
        except EngineError as error:
            if not error.retryable:
                raise BadRequest("The correction does not fit the model's context.", param="correction") from None
            raise EngineUnavailable("No engine can tokenise the correction now; try again.") from error
        name = f"c{new_id('x')[-8:]}"
        return CandidateRecord(
            id=candidate_id(group.id, name),
            position=len(group.candidates),
            adapter=HUMAN,
            variant="",
            text=text,
            shown_text=None,
            token_ids=scored.token_ids,
            logprobs=scored.logprobs,
            finish_reason="length",
            is_shown=False,
            is_blocked=False,
            probability=0.0,
            total=None,
        )

    async def _keep(
        self,
        speaker: Speaker,
        request: BaseModel,
        group: GroupRecord,
        kept: list[SignalRecord],
        correction: CandidateRecord | None = None,
    ) -> SignalReply:
        alias = self._aliases.get(group.alias)
        trainable = alias is not None and may_train(group, alias)
        reply = SignalReply(id=kept[0].id, completion_id=group.id, trainable=trainable)
        request_hash = hashlib.sha256(request.model_dump_json().encode()).hexdigest()
        key = speaker.idempotency_key

        def write(connection: Connection) -> tuple[SignalReply, bool]:
            if key is not None:
                earlier = idempotency.find_reply(connection, speaker.tenant, key, request_hash)
                if earlier is not None:
                    return SignalReply.model_validate(earlier), False
            if correction is not None:
                groups.add_candidate(connection, group.id, correction)
            for signal in kept:
                signals.insert_signal(connection, signal)
            if trainable:
                feed.append(connection, group.alias, group.id, FeedKind.SIGNAL, self._clock())
            if key is not None:
                idempotency.keep_reply(
                    connection,
                    speaker.tenant,
                    key,
                    request_hash=request_hash,
                    reply=reply.model_dump(),
                    now=self._clock(),
                )
            return reply, True

        answer, is_new = await self._database.write(write)
        if is_new:
            for signal in kept:
                self._metrics.signals.labels(self._metrics.alias(group.alias), signal.kind).inc()
        return answer


def _shown_candidate(group: GroupRecord, wanted: str | None, param: str) -> CandidateRecord:
    """The named candidate, or the first shown one; only what was shown can be judged."""
    if wanted is None:
        if not group.shown:
            raise BadRequest("This completion showed no answer.", param="completion_id")
        return max(group.shown, key=lambda one: (one.probability, -one.position))
    candidate = group.candidate(wanted)
    if candidate is None or not candidate.is_shown:
        raise BadRequest(f"{param} names no answer that this completion showed.", param=param)
    return candidate
