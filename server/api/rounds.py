"""Training rounds as operators look at them: every one, uploaded, discarded or skipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

from server.adapters.report import html, markdown, of_round
from server.api.deps import LearnerCaller, ServicesDep
from server.errors import NotFound
from server.store import rounds
from server.store.records import RoundRecord
from server.wire.training import RoundList, RoundReply, RoundSummary

router = APIRouter()

RoundId = Annotated[int, Path(ge=1, le=2**31 - 1)]


@router.get("/v1/rounds")
async def list_rounds(
    caller: LearnerCaller,
    services: ServicesDep,
    alias: str,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
) -> RoundList:
    """An alias's rounds, newest first; `before` an id: those in front of it."""
    services.alias(alias)
    found = await services.database.read(lambda c: rounds.newest(c, alias, limit, before))
    return RoundList(data=[RoundSummary(**_summary(one)) for one in found])


@router.get("/v1/rounds/{round_id}", response_model=RoundReply)
async def get_round(
    caller: LearnerCaller,
    services: ServicesDep,
    round_id: RoundId,
    page_format: Annotated[Literal["json", "markdown", "html"], Query(alias="format")] = "json",
) -> RoundReply | Response:
    """What became of one round; `?format=markdown` or `html` as a page for reading."""
    record = await services.database.read(lambda c: rounds.get(c, round_id))
    if record is None:
        raise NotFound("There is no such round.", code="round_not_found")
    if page_format == "json":
        return RoundReply(**_summary(record), detail=record.body)
    page = of_round.page(record)
    if page_format == "markdown":
        return PlainTextResponse(markdown.render(page), media_type="text/markdown")
    headers = {"content-security-policy": html.POLICY, "x-content-type-options": "nosniff"}
    return HTMLResponse(html.render(page), headers=headers)


def _summary(record: RoundRecord) -> dict[str, Any]:
    body = record.body
    return {
        "id": record.id,
        "alias": record.alias,
        "outcome": record.outcome,
        "reason": body["reason"],
        "adapter": record.adapter,
        "parent": body["parent"] if isinstance(body.get("parent"), str) else None,
        "signals": _count(body, "signals"),
        "groups": _count(body, "groups"),
        "seconds": of_round.total_seconds(body),
        "created_at": record.created_at,
    }


def _count(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
