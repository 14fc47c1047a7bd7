"""Adapters over HTTP: upload in three steps, look, decide.

Uploading and looking need the learner's role, deciding the operator's. Files are sent and fetched as they are, as
octet streams; everything else is JSON.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response

from server.adapters import shadow_report
from server.adapters.gate.report import markdown
from server.adapters.restraint import Wait
from server.adapters.routing import Order
from server.adapters.uploads import Upload
from server.api.deps import LearnerCaller, OperatorCaller, ServicesDep, json_body
from server.errors import BadRequest, NotFound, UnsupportedMedia
from server.services import Services
from server.store import shadows
from server.store.records import AdapterRecord, Routing
from server.wire.adapters import (
    AdapterList,
    AdapterManifest,
    AdapterReply,
    AdapterReportReply,
    LineageReply,
    MoveRequest,
    RoutingReply,
    UploadReply,
)

router = APIRouter()


def adapter_reply(record: AdapterRecord, *, with_manifest: bool = False) -> AdapterReply:
    return AdapterReply(
        id=record.id,
        alias=record.alias,
        state=record.state.value,
        parent=record.parent,
        created_at=record.created_at,
        updated_at=record.updated_at,
        manifest=record.manifest if with_manifest else None,
    )


def routing_reply(routing: Routing, wait: Wait | None = None) -> RoutingReply:
    reply = RoutingReply(**dataclasses.asdict(routing))
    if wait is not None:
        reply.waiting, reply.waiting_until = wait.reason, wait.until
    return reply


def _upload_reply(upload: Upload) -> UploadReply:
    return UploadReply(upload=upload.id, missing=upload.missing)


# --- upload -----------------------------------------------------------------------------------------------


@router.post("/v1/adapters")
async def begin_upload(
    caller: LearnerCaller, services: ServicesDep, body: Annotated[AdapterManifest, json_body(AdapterManifest)]
) -> UploadReply:
    """First step: the manifest. Answers with the upload's id and the files that it waits for."""
    return _upload_reply(await services.registry.begin(body))


@router.put("/v1/adapters/{upload}/files/{name}")
async def put_file(
    request: Request,
    caller: LearnerCaller,
    services: ServicesDep,
    upload: str,
    name: str,
    *,
    x_content_sha256: Annotated[str | None, Header()] = None,
) -> UploadReply:
    """Second step, for each file: its bytes. Read as a stream, never longer than the manifest says."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("Send the file uncompressed.")
    sha256 = x_content_sha256.lower() if x_content_sha256 else None
    return _upload_reply(await services.registry.put_file(upload, name, request.stream(), sha256))


# Before the route of the actions, whose pattern matches this path too.
@router.post("/v1/adapters/{upload}/commit")
async def commit_upload(caller: LearnerCaller, services: ServicesDep, upload: str) -> AdapterReply:
    """Last step: everything is checked and published, or nothing is."""
    record = await services.registry.commit(upload, actor=caller.key_id)
    services.rollout.wake()
    return adapter_reply(record)


# --- looking ----------------------------------------------------------------------------------------------


@router.get("/v1/adapters")
async def list_adapters(caller: LearnerCaller, services: ServicesDep, alias: str | None = None) -> AdapterList:
    """All adapters, oldest first."""
    return AdapterList(data=[adapter_reply(record) for record in await services.registry.find(alias=alias)])


@router.get("/v1/adapters/{adapter}")
async def get_adapter(caller: LearnerCaller, services: ServicesDep, adapter: str) -> AdapterReply:
    return adapter_reply(await services.registry.get(adapter), with_manifest=True)


@router.get("/v1/adapters/{adapter}/report", response_model=AdapterReportReply)
async def get_report(
    caller: LearnerCaller,
    services: ServicesDep,
    adapter: str,
    report_format: Annotated[Literal["json", "markdown"], Query(alias="format")] = "json",
) -> AdapterReportReply | Response:
    """What was checked and decided, oldest first; `?format=markdown` for reading."""
    record = await services.registry.get(adapter)
    reports = await services.registry.reports(adapter)
    active = services.router.current(record.alias).active
    pairs = await services.database.read(lambda c: shadows.newest(c, adapter, active, shadow_report.MOST))
    shadow = shadow_report.summarise(active, pairs)
    if report_format == "markdown":
        page = markdown(record, reports) + (shadow_report.markdown(shadow) if shadow is not None else "")
        return PlainTextResponse(page, media_type="text/markdown")
    run = services.rollout.evidence(record.alias)
    return AdapterReportReply(
        adapter=adapter,
        reports=[dataclasses.asdict(report) for report in reports],
        evidence=run.trial.summary() if run is not None and run.record.canary == adapter else None,
        shadow=shadow,
    )


@router.get("/v1/adapters/{adapter}/lineage")
async def get_lineage(caller: LearnerCaller, services: ServicesDep, adapter: str) -> LineageReply:
    """What it grew out of, nearest first, and what grew out of it."""
    ancestors, descendants = await services.registry.lineage(adapter)
    return LineageReply(adapter=adapter, ancestors=ancestors, descendants=descendants)


@router.get("/v1/adapters/{adapter}/files/{name}")
async def get_file(caller: LearnerCaller, services: ServicesDep, adapter: str, name: str) -> FileResponse:
    """One of the adapter's files, as published."""
    path = await services.registry.file(adapter, name)
    if not path.is_file():
        raise NotFound("The file is no longer there.", code="file_not_found")
    return FileResponse(path, media_type="application/octet-stream")


# --- deciding ---------------------------------------------------------------------------------------------


@router.post("/v1/adapters/{adapter}/{action}")
async def move_adapter(
    caller: OperatorCaller,
    services: ServicesDep,
    adapter: str,
    action: str,
    body: Annotated[MoveRequest, json_body(MoveRequest)],
) -> RoutingReply:
    """`canary`, `shadow`, `promote`, `reject` or `quarantine`; answers with routing as it stands afterwards."""
    order = Order(caller.key_id, reason=body.reason, expect_generation=body.expect_generation, force=body.force)
    moves: dict[str, Callable[[], Awaitable[Routing]]] = {
        "canary": lambda: _canary(services, adapter, body.share, order),
        "shadow": lambda: _shadow(services, adapter, body.share, order),
        "promote": lambda: services.router.promote(adapter, order),
        "reject": lambda: services.router.reject(adapter, order),
        "quarantine": lambda: services.router.quarantine(adapter, order),
    }
    if action not in moves:
        raise NotFound(f"There is no such action; there are {', '.join(moves)}.")
    routing = await moves[action]()
    services.rollout.wake()
    return routing_reply(routing)


async def _canary(services: Services, adapter: str, share: float | None, order: Order) -> Routing:
    if share is None:
        alias = (await services.registry.get(adapter)).alias
        share = services.alias(alias).rollout.canary_share
    if share <= 0:
        raise BadRequest("A canary's share must be greater than 0; `reject` ends it.", param="share")
    return await services.router.start_canary(adapter, share, order)


async def _shadow(services: Services, adapter: str, share: float | None, order: Order) -> Routing:
    if share is None:
        raise BadRequest("Name the share of the requests that the shadow answers; 0 ends it.", param="share")
    return await services.router.set_shadow(adapter, share, order)
