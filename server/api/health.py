"""Liveness and readiness. Metrics have a listener of their own."""

from __future__ import annotations

from fastapi import APIRouter, Response

from server.api.deps import ServicesDep
from server.engine.health import EngineState
from server.wire.operate import Health

router = APIRouter()


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return Health(status="ok")


@router.get("/readyz", responses={503: {"model": Health}})
async def readyz(services: ServicesDep, response: Response) -> Health:
    """A replica is in (it generated a token lately and serves the live adapters), and the store confirms writes."""
    engine, is_storing = services.engine.state, services.database.is_healthy
    detail = {"engine": str(engine), "store": "ok" if is_storing else "unavailable"}
    detail |= {f"replica {member.number}": str(member.standing) for member in services.engine.members}
    if engine is EngineState.READY and is_storing:
        return Health(status="ok", detail=detail)
    response.status_code = 503
    response.headers["retry-after"] = "2"
    return Health(status="unavailable", detail=detail)
