"""Adapters over HTTP: upload in three steps, look, decide.

Uploading and looking need the learner's role, deciding the operator's. Files are sent and fetched as they are, as
octet streams; everything else is JSON.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response

from server.adapters import shadow_report
from server.adapters.report import content, html, markdown
from server.adapters.report.content import Page
from server.adapters.restraint import Wait
from server.adapters.routing import Order
from server.adapters.uploads import Upload
from server.api.deps import LearnerCaller, OperatorCaller, ServicesDep, json_body
from server.errors import BadRequest, NotFound, UnsupportedMedia
from server.services import Services
from server.store import audit, shadows
from server.store.records import AdapterRecord, Report, Routing
from server.wire.adapters import (
    AdapterList,
    AdapterManifest,
    AdapterReply,
    AdapterReportReply,
    DeletedReply,
    LineageReply,
    MoveReply,
    MoveRequest,
    RoutingReply,
    ShadowReply,
    UploadReply,
)

router = APIRouter()

MAX_MOVES = 1000
"""Newest moves that an adapter's page looks through."""


def adapter_reply(record: AdapterRecord, progress: str | None = None, *, with_manifest: bool = False) -> AdapterReply:
    return AdapterReply(
        id=record.id,
        alias=record.alias,
        state=record.state.value,
        parent=record.parent,
        created_at=record.created_at,
        updated_at=record.updated_at,
        progress=progress,
        manifest=record.manifest if with_manifest else None,
    )


def routing_reply(routing: Routing, wait: Wait | None = None) -> RoutingReply:
    reply = RoutingReply(**dataclasses.asdict(routing))
    if wait is not None:
        reply.waiting, reply.waiting_until = wait.reason, wait.until
    return reply


def _upload_reply(upload: Upload) -> UploadReply:
    received = {name: part.size_bytes for name, part in upload.parts.items()}
    return UploadReply(upload=upload.id, missing=upload.missing, received=received)


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
    offset: Annotated[int | None, Query(ge=0)] = None,
    x_content_sha256: Annotated[str | None, Header()] = None,
) -> UploadReply:
    """Second step, for each file: its bytes, or with `offset` a piece of them. Read as a stream, never longer than the
    manifest says.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("Send the file uncompressed.")
    sha256 = x_content_sha256.lower() if x_content_sha256 else None
    return _upload_reply(await services.registry.put_file(upload, name, request.stream(), sha256, offset=offset))


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
    found = await services.registry.find(alias=alias)
    return AdapterList(data=[adapter_reply(record, services.rollout.progress(record)) for record in found])


@router.get("/v1/adapters/{adapter}")
async def get_adapter(caller: LearnerCaller, services: ServicesDep, adapter: str) -> AdapterReply:
    record = await services.registry.get(adapter)
    return adapter_reply(record, services.rollout.progress(record), with_manifest=True)


@router.get("/v1/adapters/{adapter}/report", response_model=AdapterReportReply)
async def get_report(
    caller: LearnerCaller,
    services: ServicesDep,
    adapter: str,
    report_format: Annotated[Literal["json", "markdown", "html"], Query(alias="format")] = "json",
) -> AdapterReportReply | Response:
    """What was checked and decided, oldest first; `?format=markdown` or `html` as a page for reading."""
    record = await services.registry.get(adapter)
    reports = await services.registry.reports(adapter)
    if report_format == "json":
        return AdapterReportReply(
            adapter=adapter,
            reports=[dataclasses.asdict(report) for report in reports],
            evidence=_evidence(services, record),
            shadow=await _shadow_report(services, record),
        )
    page = await _page(services, record, reports)
    if report_format == "markdown":
        return PlainTextResponse(markdown.render(page), media_type="text/markdown")
    headers = {"content-security-policy": html.POLICY, "x-content-type-options": "nosniff"}
    return HTMLResponse(html.render(page), headers=headers)


async def _page(services: Services, record: AdapterRecord, reports: Sequence[Report]) -> Page:
    known = {one.id: one for one in await services.registry.find(alias=record.alias)}
    told = await services.database.read(lambda c: audit.about_adapter(c, record.id, MAX_MOVES))
    history = [entry for entry in told if content.concerns(record.id, entry)]
    evidence, shadow = _evidence(services, record), await _shadow_report(services, record)
    return content.page(record, reports, history, known, evidence=evidence, shadow=shadow)


def _evidence(services: Services, record: AdapterRecord) -> dict[str, Any] | None:
    """What is known of the adapter as the canary that runs."""
    run = services.rollout.evidence(record.alias)
    return run.trial.summary() if run is not None and run.record.canary == record.id else None


async def _shadow_report(services: Services, record: AdapterRecord) -> ShadowReply | None:
    """What its answers were worth beside those of the adapter that is active now."""
    active = services.router.current(record.alias).active
    pairs = await services.database.read(lambda c: shadows.newest(c, record.id, active, shadow_report.MOST))
    return shadow_report.summarise(active, pairs)


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


@router.delete("/v1/adapters/{adapter}")
async def delete_adapter(caller: LearnerCaller, services: ServicesDep, adapter: str) -> DeletedReply:
    """Forget an ephemeral adapter; any other is kept for ever, and 404 here."""
    await services.registry.delete_ephemeral(adapter, actor=caller.key_id)
    return DeletedReply(id=adapter)


# --- deciding ---------------------------------------------------------------------------------------------


@router.post("/v1/adapters/{adapter}/{action}")
async def move_adapter(
    caller: OperatorCaller,
    services: ServicesDep,
    adapter: str,
    action: str,
    body: Annotated[MoveRequest, json_body(MoveRequest)],
) -> MoveReply:
    """`canary`, `shadow`, `promote`, `reject` or `quarantine`; answers with routing as it stands afterwards."""
    order = Order(caller.key_id, reason=body.reason, expect_generation=body.expect_generation, force=body.force)
    moves: dict[str, Callable[[], Awaitable[Routing]]] = {
        "canary": lambda: _canary(services, adapter, body.share, order),
        "shadow": lambda: _shadow(services, adapter, body.share, order),
        "promote": lambda: services.router.promote(adapter, order),
        "reject": lambda: services.router.reject(adapter, order),
    }
    changed = None
    if action == "quarantine":
        routing, changed = await services.router.quarantine(adapter, order)
    elif action in moves:
        routing = await moves[action]()
    else:
        raise NotFound(f"There is no such action; there are {', '.join([*moves, 'quarantine'])}.")
    services.rollout.wake()
    return MoveReply(**dataclasses.asdict(routing), signals_set_aside=changed)


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
