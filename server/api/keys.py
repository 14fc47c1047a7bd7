"""API keys over HTTP: make, list, revoke. For operators."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query

from server.api.deps import OperatorCaller, ServicesDep, json_body, now
from server.store.keys import KeyRecord
from server.wire.keys import KeyList, KeyReply, KeyRequest, NewKeyReply

router = APIRouter()


@router.post("/v1/keys")
async def create_key(
    caller: OperatorCaller, services: ServicesDep, body: Annotated[KeyRequest, json_body(KeyRequest)]
) -> NewKeyReply:
    """A new key. Its secret is in this answer and nowhere else."""
    wanted = KeyRecord(
        id="",
        tenant=body.tenant or caller.tenant,
        role=body.role,
        name=body.name,
        created_by=caller.key_id,
        expires_at=now() + body.expires_in_s if body.expires_in_s is not None else None,
        requests_per_minute=body.requests_per_minute,
        candidates_per_minute=body.candidates_per_minute,
        tokens_per_minute=body.tokens_per_minute,
    )
    key, record = await services.keys.create(wanted)
    return NewKeyReply(**asdict(record), key=key)


@router.get("/v1/keys")
async def list_keys(
    caller: OperatorCaller,
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    after: Annotated[str | None, Query(max_length=128)] = None,
) -> KeyList:
    """Every key, revoked ones too, oldest first; never their secrets."""
    found = await services.keys.list(after, limit + 1)
    return KeyList(data=[KeyReply(**asdict(one)) for one in found[:limit]], has_more=len(found) > limit)


@router.delete("/v1/keys/{key}")
async def revoke_key(caller: OperatorCaller, services: ServicesDep, key: str, *, force: bool = False) -> KeyReply:
    """The key with this id stops working: here at once, on other servers within seconds. The last operator's key only
    with `force`.
    """
    return KeyReply(**asdict(await services.keys.revoke(key, actor=caller.key_id, force=force)))
