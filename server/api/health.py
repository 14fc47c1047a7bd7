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
    """The engine generated a token lately, and the store confirms what is written."""
    engine, is_storing = services.supervisor.state, services.database.is_healthy
    detail = {"engine": str(engine), "store": "ok" if is_storing else "unavailable"}
    if engine is EngineState.READY and is_storing:
        return Health(status="ok", detail=detail)
    response.status_code = 503
    response.headers["retry-after"] = "2"
    return Health(status="unavailable", detail=detail)
