"""A person's data, erased at their word: rows in one transaction, images after it.

The answer says which adapters learned from what was erased. It is exact, since each adapter's upload names the groups
and the annotators of its training, and whatever grew from such an adapter is named with it. An adapter that is still in
training is refused at its upload, should it have learned from what was erased meanwhile. What to do about adapters
that are there is offered with the answer, and done where it was asked for: then, or by the same call at any later time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqlalchemy import Connection

from server import images
from server.adapters import forgetting
from server.adapters.forgetting import Forgetting
from server.adapters.routing import Order, Router
from server.errors import StaleGeneration, StorageUnavailable
from server.store import adapters, audit, erasure, rounds
from server.store.blobs import BlobStore
from server.store.database import Database
from server.store.records import IMPORTED
from server.wire.operate import AliasRemedies, ErasureReply, Remedy

log = logging.getLogger(__name__)


async def erase_user(
    database: Database, blobs: BlobStore, *, tenant: str, user_hash: str, actor: str, now: float
) -> ErasureReply:
    """Erase all that is kept of a tenant's user; raises `StorageUnavailable`, and then nothing was erased."""

    def run(connection: Connection) -> tuple[ErasureReply, tuple[str, ...]]:
        group_ids = erasure.groups_of(connection, tenant, user_hash)
        imported = f"{IMPORTED}{user_hash}"
        learned = adapters.learned_from(connection, [*group_ids, user_hash, imported])
        removed = erasure.erase(connection, group_ids, user_hash, now) + erasure.erase(connection, [], imported, now)
        adapters.forget_source(connection, user_hash)
        adapters.forget_source(connection, imported)
        for annotator in (user_hash, imported):
            rounds.forget_annotator(connection, annotator)
        known = {one.id: one for one in adapters.list_adapters(connection)}
        earlier = audit.erased_from(connection, user_hash)  # their rows no longer name who is erased
        tainted = forgetting.with_descendants([*learned, *earlier], known)
        undeclared = forgetting.with_descendants(adapters.without_sources(connection, removed.aliases), known)
        reply = ErasureReply(
            groups=removed.groups,
            signals=removed.signals,
            images=len(removed.images),
            adapters=tainted,
            undeclared=[one for one in undeclared if one not in tainted],
        )
        detail = {"tenant": tenant, **reply.model_dump(exclude={"remedies"})}
        audit.record(connection, actor=actor, action="erase", subject=user_hash, detail=detail, now=now)
        return reply, removed.images

    reply, orphans = await database.write(run)
    try:
        await images.remove(database, blobs, orphans, now)
    except StorageUnavailable as error:
        log.warning("images of an erased user stay until the next sweep: %s", error.cause)
    return reply


async def forget(
    router: Router, adapter_ids: Sequence[str], remedy: forgetting.Remedy | None, order: Order
) -> list[AliasRemedies]:
    """What can be done about these adapters, alias by alias; where a remedy is named, it is done."""
    found = []
    for one in await router.forgetting(adapter_ids):
        if remedy is not None:
            await _forget(router, one.alias, adapter_ids, remedy, order)
        found.append(AliasRemedies(alias=one.alias, remedies=[_roll_back(one), _retrain(one)], taken=remedy))
    return found


async def _forget(
    router: Router, alias: str, adapter_ids: Sequence[str], remedy: forgetting.Remedy, order: Order
) -> None:
    """What is to be forgotten is so wherever routing stands: a move that came between changes nothing about that."""
    for attempts_left in (2, 1, 0):
        try:
            await router.forget(alias, adapter_ids, remedy, order)
            return
        except StaleGeneration:
            if not attempts_left:
                raise


def _roll_back(plan: Forgetting) -> Remedy:
    what = f"{', '.join(plan.adapters)} never serve again; {plan.active} serves {plan.alias}"
    return Remedy(action="roll_back", active=plan.active, adapters=list(plan.adapters), what=what)


def _retrain(plan: Forgetting) -> Remedy:
    rolled_back = _roll_back(plan)
    what = (
        f"{rolled_back.what}; the learner reads the feed again behind {plan.learned_upto} and its next round starts "
        f"from {plan.active}, without what was erased"
    )
    return rolled_back.model_copy(update={"action": "retrain", "feed_after": plan.learned_upto, "what": what})
