"""`GET /v1/activity`: an alias's last hours, summed up for the operators' console."""

from __future__ import annotations

import math
from typing import Annotated, Final

from fastapi import APIRouter, Query
from prometheus_client import Gauge
from sqlalchemy import Connection

from server import activity
from server.api.deps import OperatorCaller, ServicesDep, now
from server.metrics import Metrics
from server.store import activity as rows
from server.store import feed, leases
from server.store.records import Lease
from server.wire.activity import ActivityReply, LearnerActivity

router = APIRouter()

MAX_ANSWERS: Final = 2000
"""Newest answers that are looked at."""
HOUR_S: Final = 3600.0


@router.get("/v1/activity")
async def get_activity(
    caller: OperatorCaller,
    services: ServicesDep,
    alias: str,
    hours: Annotated[float, Query(gt=0, le=24 * 90)] = 24.0,
    buckets: Annotated[int, Query(ge=1, le=500)] = 48,
) -> ActivityReply:
    """Answers, opinions and rewards over time, agreement with people, and who trains."""
    services.alias(alias)
    bucket_s = hours * HOUR_S / buckets
    since = (math.floor(now() / bucket_s) + 1 - buckets) * bucket_s  # the last bucket is that of now

    def read(connection: Connection) -> ActivityReply:
        answers = rows.answers(connection, alias, since, MAX_ANSWERS)
        opinions = rows.opinions(connection, alias, since, MAX_ANSWERS)
        judged = rows.judged(connection, alias, since, MAX_ANSWERS)
        return ActivityReply(
            alias=alias,
            since=since,
            bucket_s=bucket_s,
            is_whole=len(answers) < MAX_ANSWERS,
            buckets=activity.buckets(answers, opinions, since=since, bucket_s=bucket_s, count=buckets),
            adapters=activity.by_adapter(answers, opinions),
            scorers=activity.scorer_agreement(opinions, judged),
            rules=activity.rule_agreement(opinions, judged),
            feed_head=feed.head(connection, alias),
            learner=_learner(leases.get_lease(connection, alias), services.metrics),
        )

    return await services.database.read(read)


def _learner(lease: Lease | None, metrics: Metrics) -> LearnerActivity | None:
    """What the learner said last is kept as metrics alone, so a server that was started since knows nothing of it."""
    if lease is None:
        return None
    told = {name: _last(gauge, lease.alias) for name, gauge in metrics.learner_gauges.items()}
    return LearnerActivity(
        owner=lease.owner,
        lease_expires_at=lease.expires_at,
        heartbeat_at=_last(metrics.learner_heartbeat, lease.alias),
        values={name: value for name, value in told.items() if value is not None},
    )


def _last(gauge: Gauge, alias: str) -> float | None:
    samples = (one for found in gauge.collect() for one in found.samples)
    return next((one.value for one in samples if one.labels["alias"] == alias), None)
