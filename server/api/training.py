"""What a learner needs: settings, lease, feed, images, heartbeat and round reports."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import Connection

from server.api.deps import LearnerCaller, Role, ServicesDep, json_body, now
from server.api.presence import unless_disconnected
from server.config import LORA_TARGET_MODULES
from server.errors import Busy, Forbidden, NotFound
from server.pipeline.recording import may_train
from server.preferences import derive
from server.store import audit, feed, groups, leases, rounds, routing, signals
from server.store.records import MediaRecord, RoundRecord
from server.training import to_training_group
from server.wire.base import Position
from server.wire.training import (
    FeedEntry,
    FeedPage,
    HeartbeatReply,
    HeartbeatRequest,
    LeaseReply,
    LeaseRequest,
    Retraining,
    RolloutReply,
    RolloutRequest,
    RoundReport,
    TrainingConfig,
)

router = APIRouter()


@router.get("/v1/training/config")
async def get_training_config(caller: LearnerCaller, services: ServicesDep, alias: str) -> TrainingConfig:
    settings = services.alias(alias)
    order = await services.database.read(lambda c: routing.last_retraining(c, alias))
    return TrainingConfig(
        alias=alias,
        base_model=services.config.engine.model,
        base_digest=services.base_digest,
        max_lora_rank=services.config.engine.max_lora_rank,
        lora_modules=list(LORA_TARGET_MODULES),
        learner=settings.learner.model_dump(),
        retraining=None if order is None else Retraining(number=order[0], feed_after=order[1]),
    )


@router.post("/v1/training/lease")
async def take_lease(
    caller: LearnerCaller, services: ServicesDep, body: Annotated[LeaseRequest, json_body(LeaseRequest)]
) -> LeaseReply:
    """The right to train an alias; refused while another owner's lease runs."""
    services.alias(body.alias)
    time = now()

    def write(connection: Connection) -> LeaseReply | None:
        lease = leases.take_lease(connection, body.alias, body.owner, time, body.ttl_s)
        if lease is None:
            return None
        standing = services.router.current(body.alias)
        return LeaseReply(
            alias=body.alias,
            token=lease.token,
            expires_at=lease.expires_at,
            active=standing.active,
            generation=standing.generation,
            head=feed.head(connection, body.alias),
        )

    reply = await services.database.write(write)
    if reply is None:
        raise Forbidden("Another learner holds this alias's lease.", param="alias", code="lease_held")
    return reply


@router.post("/v1/training/heartbeat")
async def heartbeat(
    caller: LearnerCaller, services: ServicesDep, body: Annotated[HeartbeatRequest, json_body(HeartbeatRequest)]
) -> HeartbeatReply:
    """Extends the lease; a holder that was replaced is told so."""
    time = now()
    lease = await services.database.write(lambda c: leases.renew_lease(c, body.alias, body.token, time))
    if lease is None:
        raise Forbidden("This lease was lost; take a new one.", param="token", code="lease_lost")
    services.metrics.learner_heartbeat.labels(lease.alias).set(time)
    for name, value in body.metrics.items():
        if (gauge := services.metrics.learner_gauges.get(name)) is not None:
            gauge.labels(lease.alias).set(value)
    return HeartbeatReply(expires_at=lease.expires_at)


@router.post("/v1/training/report")
async def report_round(
    caller: LearnerCaller, services: ServicesDep, body: Annotated[RoundReport, json_body(RoundReport)]
) -> HeartbeatReply:
    """What became of a round, kept for operators; told again it changes nothing."""
    time = now()
    services.alias(body.alias)

    def write(connection: Connection) -> tuple[float, bool] | None:
        lease = leases.get_lease(connection, body.alias)
        if lease is None or lease.token != body.token:
            return None
        row = {**body.detail, "reason": body.reason}
        record = RoundRecord(0, body.alias, body.round, body.outcome, body.adapter, row, time)
        if not rounds.add(connection, record):
            return lease.expires_at, False
        audit.record(
            connection,
            actor=caller.key_id,
            action=f"round.{body.outcome}",
            subject=body.adapter or body.alias,
            detail={"reason": body.reason},
            now=time,
        )
        return lease.expires_at, True

    kept = await services.database.write(write)
    if kept is None:
        raise Forbidden("This lease was lost; take a new one.", param="token", code="lease_lost")
    expires_at, is_new = kept
    if is_new:
        services.metrics.learner_rounds.labels(body.alias, body.outcome).inc()
    return HeartbeatReply(expires_at=expires_at)


@router.get("/v1/training/feed")
async def read_feed(
    caller: LearnerCaller,
    services: ServicesDep,
    alias: str,
    after: Position = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> FeedPage:
    """The next changes, each with its group's present state; a group that teaches nothing now comes as null."""
    settings = services.alias(alias)

    def read(connection: Connection) -> FeedPage:
        entries = feed.read_after(connection, alias, after, limit)
        changed = [entry.group_id for entry in entries]
        said = signals.live_signals(connection, changed)
        teaching = {}
        for group in groups.get_groups(connection, changed):
            if may_train(group, settings) and (examples := derive(group, said[group.id], settings.signals)):
                teaching[group.id] = to_training_group(group, examples)
        return FeedPage(
            entries=[
                FeedEntry(
                    seq=entry.seq,
                    group_id=entry.group_id,
                    revision=entry.revision,
                    kind=entry.kind.value,
                    group=teaching.get(entry.group_id),
                )
                for entry in entries
            ],
            next=entries[-1].seq if entries else after,
            head=feed.head(connection, alias),
        )

    page = await services.database.read(read)
    services.metrics.feed_head.labels(alias).set(page.head)
    services.feed_positions[alias] = after
    services.metrics.feed_position.labels(alias).set(after)
    services.metrics.learner_heartbeat.labels(alias).set(now())
    return page


@router.post("/v1/training/rollouts")
async def roll_out(
    request: Request,
    caller: LearnerCaller,
    services: ServicesDep,
    body: Annotated[RolloutRequest, json_body(RolloutRequest)],
) -> RolloutReply:
    """New answers to prompts of the feed, by an adapter of the alias, with rewards: for learning, and kept nowhere."""
    asked = await services.rollout_desk.prepare(body, services.alias(body.alias))
    # A tenant's budgets are for its apps.
    reserved = services.budgets.reserve(
        caller.key, candidates=asked.most_candidates, max_tokens=asked.max_tokens, from_tenant=False
    )
    try:
        reply, tokens = await unless_disconnected(request, services.rollout_desk.answer(asked))
    except Busy:
        reserved.settle(candidates=0, tokens=0)
        raise
    reserved.settle(candidates=sum(len(one.group.candidates) for one in reply.data if one.group), tokens=tokens)
    return reply


@router.get("/v1/media/{sha256}")
async def get_media(caller: LearnerCaller, services: ServicesDep, sha256: str) -> Response:
    """An image by its content. Learners get those that the feed has told of, and that may still be trained on."""
    tenants = {alias.name: alias.train_tenants for alias in services.config.aliases}

    def read(connection: Connection) -> MediaRecord | None:
        if caller.role is Role.LEARNER and not groups.may_be_learned(connection, sha256, tenants):
            return None
        return groups.get_media(connection, sha256)

    media = await services.database.read(read)
    data = await services.blobs.get(media.sha256) if media else None
    if media is None or data is None:
        raise NotFound("There is no such image.", param="sha256")
    return Response(data, media_type=media.mime, headers={"x-content-type-options": "nosniff"})
