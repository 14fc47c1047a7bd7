"""What stands behind an adapter is set aside with it, so that the next round does not learn it again."""

from __future__ import annotations

from sqlalchemy import Connection

from server.adapters import lineage
from server.store import adapters, quarantine
from server.store.records import AdapterRecord


def set_behind(connection: Connection, adapter: AdapterRecord, *, aside: bool, now: float) -> int:
    """Set the signals behind an adapter aside, or take them back in; how many changed."""
    known = {one.id: one for one in adapters.list_adapters(connection, alias=adapter.alias)}
    sound = lineage.sound_ancestors(adapter.id, known)
    return quarantine.behind_adapter(connection, adapter, sound, aside=aside, now=now)
