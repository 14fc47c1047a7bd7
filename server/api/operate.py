"""What operators see and do beside single adapters: routing, rollback and its undo, the audit trail."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query

from server.adapters.routing import Order
from server.api.adapters import routing_reply
from server.api.deps import OperatorCaller, Principal, ServicesDep, json_body, now
from server.errors import BadRequest
from server.integrity import check_state
from server.services import Services
from server.store import audit
from server.wire.adapters import RollbackRequest, RoutingList, RoutingReply
from server.wire.operate import AuditList, StateProblem, StateReply

router = APIRouter()


@router.get("/v1/routing")
async def get_routing(caller: OperatorCaller, services: ServicesDep) -> RoutingList:
    """Who serves every alias, since when, at which generation."""
    return RoutingList(
        data=[routing_reply(routing, services.rollout.waiting(routing.alias)) for routing in services.router.all()]
    )


@router.post("/v1/rollback")
async def roll_back(
    caller: OperatorCaller, services: ServicesDep, body: Annotated[RollbackRequest, json_body(RollbackRequest)]
) -> RoutingReply:
    """The previous active adapter, or base, takes all traffic; the next request already goes there."""
    routing = await services.router.rollback(_alias(body, services), _order(caller, body))
    services.rollout.wake()
    return routing_reply(routing)


@router.post("/v1/rollback/undo")
async def undo_rollback(
    caller: OperatorCaller, services: ServicesDep, body: Annotated[RollbackRequest, json_body(RollbackRequest)]
) -> RoutingReply:
    """Bring back what the last rollback took out."""
    routing = await services.router.undo(_alias(body, services), _order(caller, body))
    services.rollout.wake()
    return routing_reply(routing)


@router.get("/v1/audit")
async def get_audit(
    caller: OperatorCaller,
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    subject: Annotated[str | None, Query(max_length=128)] = None,
) -> AuditList:
    """Who changed what, newest first."""
    return AuditList(data=await services.database.read(lambda c: audit.newest(c, limit, subject)))


@router.get("/v1/check")
async def check(caller: OperatorCaller, services: ServicesDep) -> StateReply:
    """Look at the whole state beside the running service; reads every image and adapter once."""
    found = await check_state(services.database, services.blobs, services.registry, now=now())
    return StateReply(data=[StateProblem(**asdict(one)) for one in found])


def _alias(body: RollbackRequest, services: Services) -> str:
    if body.alias is not None:
        return body.alias
    names = [alias.name for alias in services.config.aliases]
    if len(names) > 1:
        raise BadRequest(f"There are several aliases; name one of {', '.join(names)}.", param="alias")
    return names[0]


def _order(caller: Principal, body: RollbackRequest) -> Order:
    return Order(caller.key_id, reason=body.reason, expect_generation=body.expect_generation)
