"""Taking back: a user's data for ever, signals until an operator takes them in again."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from sqlalchemy import Connection

from server.adapters.quarantine import set_behind
from server.adapters.routing import Order
from server.api.deps import OperatorCaller, ServicesDep, json_body, now
from server.erasure import erase_user, forget
from server.errors import NotFound
from server.store import adapters, audit, quarantine
from server.store.records import IMPORTED
from server.wire.operate import ErasureReply, QuarantineReply, QuarantineRequest

router = APIRouter()


@router.delete("/v1/users/{user:path}/data")
async def delete_user_data(
    caller: OperatorCaller,
    services: ServicesDep,
    user: Annotated[str, Path(min_length=1, max_length=128)],
    tenant: Annotated[str | None, Query(min_length=1, max_length=128)] = None,
    remedy: Annotated[Literal["roll_back", "retrain"] | None, Query(alias="adapters")] = None,
) -> ErasureReply:
    """Erase all that is kept of a user, as the app names them; answers with which adapters learned from it.

    `adapters`: what to do about those. Without it the answer says what could be done; the same call with it does it.
    """
    owner = tenant or caller.tenant
    erased = await erase_user(
        services.database,
        services.blobs,
        tenant=owner,
        user_hash=services.signer.user_hash(owner, user),
        actor=caller.key_id,
        now=now(),
    )
    order = Order(caller.key_id, reason="a user's data was erased")
    remedies = await forget(services.router, erased.adapters, remedy, order)
    if remedy is not None:
        services.rollout.wake()
    return erased.model_copy(update={"remedies": remedies})


@router.post("/v1/signals/quarantine")
async def quarantine_signals(
    caller: OperatorCaller, services: ServicesDep, body: Annotated[QuarantineRequest, json_body(QuarantineRequest)]
) -> QuarantineReply:
    """Set signals aside, or take them back in; the feed tells of every group concerned."""
    time, aside = now(), not body.undo
    annotators = [body.annotator] if body.annotator is not None else []
    if body.user is not None:
        user_hash = services.signer.user_hash(body.tenant or caller.tenant, body.user)
        annotators = [user_hash, f"{IMPORTED}{user_hash}"]  # and what they said elsewhere

    def run(connection: Connection) -> QuarantineReply:
        if annotators:
            subject = annotators[0]
            changed = sum(quarantine.of_annotator(connection, one, aside=aside, now=time) for one in annotators)
        elif body.adapter is not None:
            adapter = adapters.get_adapter(connection, body.adapter)
            if adapter is None:
                raise NotFound("There is no such adapter.", param="adapter", code="adapter_not_found")
            subject, changed = adapter.id, set_behind(connection, adapter, aside=aside, now=time)
        else:
            ids = body.signal_ids or []
            subject, changed = "signals", quarantine.of_signals(connection, ids, aside=aside, now=time)
        action = "set_signals_aside" if aside else "take_signals_back"
        detail = {"changed": changed, "reason": body.reason}
        audit.record(connection, actor=caller.key_id, action=action, subject=subject, detail=detail, now=time)
        return QuarantineReply(changed=changed)

    return await services.database.write(run)
