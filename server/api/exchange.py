"""`GET /v1/preferences` and `POST /v1/import`: preference data out to other trainers, and in from elsewhere."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from server.api.deps import OperatorCaller, ServicesDep, json_body
from server.exchange import exporting
from server.exchange.exporting import Export, Images, Kind, Split
from server.exchange.importing import Importer
from server.wire.exchange import ImportReply, ImportRequest

router = APIRouter()

JSON_LINES = "application/jsonl"


@router.get("/v1/preferences")
async def export_preferences(
    caller: OperatorCaller,
    services: ServicesDep,
    *,
    alias: str,
    format: Literal["trl"] = "trl",
    kind: Kind = "pairs",
    images: Images = "embed",
    split: Split = "train",
    after: Annotated[str | None, Query(max_length=128)] = None,
) -> StreamingResponse:
    """What the alias's groups teach, a line of JSON each; `after` goes on behind a group."""
    settings = services.alias(alias)
    position = None if after is None else await exporting.find_position(services.database, alias, after)
    export = Export(settings, kind, images, split, position)
    return StreamingResponse(exporting.lines(services.database, services.blobs, export), media_type=JSON_LINES)


@router.post("/v1/import")
async def import_groups(
    caller: OperatorCaller, services: ServicesDep, body: Annotated[ImportRequest, json_body(ImportRequest)]
) -> ImportReply:
    """Keep groups from elsewhere, each once however often it is sent."""
    importer = Importer(caller.tenant, caller.key_id, services.alias(body.alias), body.source)
    return await services.importing.take(importer, body)
