"""What has to be true of the rows, each as one question to the database: the answer is what is wrong, in words.

Constraints guard most of it while the server writes; here it is looked up, for whatever came in another way: a
restored backup, a damaged page, a hand in the database. Each question returns at most `MOST` findings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Text, and_, cast, func, select

from server.store import schema
from server.store.records import AdapterState, GroupState, SignalKind
from server.wire.base import BASE

MOST: Final = 100
"""Findings of one question. Who has more needs a backup, not a longer list."""
PAGE: Final = 1000


def missing_parents(connection: Connection) -> list[str]:
    """Rows that refer to a row that is not there."""
    found = []
    for table in schema.metadata.sorted_tables:
        for key in table.foreign_keys:
            parent = key.column.table.alias()
            query = (
                select(key.parent)
                .outerjoin(parent, key.parent == parent.c[key.column.name])
                .where(key.parent.is_not(None), parent.c[key.column.name].is_(None))
            )
            found += [
                f"a row of {table.name} refers to {value}, which is not among {key.column.table.name}"
                for value in _some(connection, query)
            ]
    query = (
        select(schema.feed.c.group_id)
        .outerjoin(schema.groups, schema.groups.c.id == schema.feed.c.group_id)
        .where(schema.groups.c.id.is_(None))
    )
    return found + [f"the feed tells of {value}, which is not among groups" for value in _some(connection, query)]


def half_kept_groups(connection: Connection) -> list[str]:
    """Completed groups without an answer."""
    groups, candidates = schema.groups, schema.candidates
    has_any = select(candidates.c.id).where(candidates.c.group_id == groups.c.id).exists()
    query = select(groups.c.id).where(groups.c.state == GroupState.COMPLETED, ~has_any)
    return [f"{group_id} is completed and has no candidate" for group_id in _some(connection, query)]


def tombstones_with_content(connection: Connection) -> list[str]:
    """Erased or expired groups of which something is left."""
    groups = schema.groups
    is_gone = groups.c.state.in_([GroupState.ERASED, GroupState.EXPIRED])
    found = []
    for table, what in (
        (schema.candidates, "candidates"),
        (schema.signals, "signals"),
        (schema.group_media, "images"),
        (schema.shadows, "a shadow's answer"),
    ):
        query = select(groups.c.id).where(
            is_gone, select(table.c.group_id).where(table.c.group_id == groups.c.id).exists()
        )
        found += [f"{group_id} is gone and still has {what}" for group_id in _some(connection, query)]
    is_empty = and_(
        groups.c.user_hash.is_(None),
        cast(groups.c.prompt, Text) == "[]",
        func.length(groups.c.prompt_token_ids) == 0,
    )
    query = select(groups.c.id).where(is_gone, ~is_empty)
    return found + [f"{group_id} is gone and still has its prompt" for group_id in _some(connection, query)]


def rival_signals(connection: Connection) -> list[str]:
    """More than one live opinion of one annotator about one thing."""
    table = schema.signals
    query = (
        select(table.c.group_id)
        .where(table.c.is_live)
        .group_by(table.c.group_id, table.c.annotator, table.c.slot)
        .having(func.count() > 1)
    )
    return [f"{group_id} has two live signals of one annotator on one thing" for group_id in _some(connection, query)]


def signals_on_strangers(connection: Connection) -> list[str]:
    """Live signals that name a candidate which their group does not have."""
    found: list[str] = []
    for page in _pages(connection):
        group_ids = {row["group_id"] for row in page}
        table = schema.candidates
        known = set(connection.execute(select(table.c.id).where(table.c.group_id.in_(group_ids))).scalars())
        found += [
            f"{row['id']} names a candidate that {row['group_id']} does not have"
            for row in page
            if not set(_named(SignalKind(row["kind"]), row["payload"])) <= known
        ]
        if len(found) >= MOST:
            break
    return found[:MOST]


def feed_gaps(connection: Connection) -> list[str]:
    """Aliases whose entries are not 1, 2, 3 … up to the head."""
    feed, heads = schema.feed, schema.feed_heads
    there = {
        row.alias: row
        for row in connection.execute(
            select(
                feed.c.alias,
                func.count().label("n"),
                func.min(feed.c.seq).label("first"),
                func.max(feed.c.seq).label("last"),
            ).group_by(feed.c.alias)
        )
    }
    told = dict(connection.execute(select(heads.c.alias, heads.c.seq)).all())
    found = []
    for alias in sorted({*there, *told}):
        row, head = there.get(alias), told.get(alias, 0)
        if row is None:
            found.append(f"the feed of {alias} is empty, and its head says {head}")
        elif (row.first, row.last, row.n) != (1, head, head):
            found.append(
                f"the feed of {alias} holds {row.n} entries from {row.first} to {row.last}, and its head says {head}"
            )
    return found


def feed_ahead(connection: Connection) -> list[str]:
    """Entries that tell of a revision which their group has not reached."""
    feed, groups = schema.feed, schema.groups
    query = (
        select(feed.c.group_id).join(groups, groups.c.id == feed.c.group_id).where(feed.c.revision > groups.c.revision)
    )
    return [f"the feed tells of a later revision of {group_id} than there is" for group_id in _some(connection, query)]


def feed_of_holdout(connection: Connection) -> list[str]:
    """Hold-out groups that the feed tells of."""
    feed, groups = schema.feed, schema.groups
    query = select(feed.c.group_id).join(groups, groups.c.id == feed.c.group_id).where(groups.c.is_holdout).distinct()
    return [f"{group_id} is held out, and the feed tells of it" for group_id in _some(connection, query)]


def misrouted(connection: Connection) -> list[str]:
    """Routing rows that point to adapters which may not stand there, and adapters that say they stand in routing."""
    adapters = list(connection.execute(select(schema.adapters.c.id, schema.adapters.c.alias, schema.adapters.c.state)))
    states, aliases = {one.id: one.state for one in adapters}, {one.id: one.alias for one in adapters}
    found = []
    routed = set()
    for row in connection.execute(select(schema.routing)).mappings():
        routed |= {(AdapterState.ACTIVE, row["active"]), (AdapterState.CANARY, row["canary"])}
        if not 0 <= row["canary_share"] <= 1 or (row["canary"] is None and row["canary_share"] > 0):
            found.append(f"{row['alias']}: a share of {row['canary_share']:g} cannot be")
        wanted = {
            "active": (row["active"], {AdapterState.ACTIVE}),
            "canary": (row["canary"], {AdapterState.CANARY}),
            # One that is declined stays for the moment until the server has looked again.
            "shadow": (row["shadow"], set(AdapterState) - {AdapterState.EPHEMERAL, AdapterState.STAGED}),
            "previous": (row["previous"], set(AdapterState) - {AdapterState.EPHEMERAL, AdapterState.STAGED}),
        }
        for place, (adapter, allowed) in wanted.items():
            if adapter in (None, BASE):
                continue
            if adapter not in states:
                found.append(f"{row['alias']}: {adapter} is {place}, and there is no such adapter")
            elif states[adapter] not in allowed:
                found.append(f"{row['alias']}: {adapter} is {place}, and its state is {states[adapter]}")
            elif aliases[adapter] != row["alias"]:
                found.append(f"{row['alias']}: {adapter} is {place}, and belongs to {aliases[adapter]}")
    found += [
        f"{one.alias}: {one.id} is {one.state}, and routing does not say so"
        for one in adapters
        if one.state in (AdapterState.ACTIVE, AdapterState.CANARY) and (one.state, one.id) not in routed
    ]
    return found[:MOST]


def strange_adapters(connection: Connection) -> list[str]:
    """Adapters without their origin, numbers that could be given again, reports about nobody."""
    adapters, counters, reports, routing = schema.adapters, schema.counters, schema.reports, schema.routing
    parent = adapters.alias()
    orphans = (
        select(adapters.c.id)
        .outerjoin(parent, parent.c.id == adapters.c.parent)
        .where(adapters.c.parent != BASE, parent.c.id.is_(None))
    )
    found = [f"{one} grew out of an adapter that is not there" for one in _some(connection, orphans)]
    given = select(counters.c.value).where(counters.c.name == "adapters").scalar_subquery()
    ahead = select(adapters.c.id).where(adapters.c.number > func.coalesce(given, 0))
    found += [f"{one} has a number that was never given, and may be given again" for one in _some(connection, ahead)]
    strangers = (
        select(reports.c.subject)
        .where(~reports.c.subject.in_(select(adapters.c.id)), ~reports.c.subject.in_(select(routing.c.alias)))
        .distinct()
    )
    return found + [f"a report is about {one}, which is not there" for one in _some(connection, strangers)]


def media_rows(connection: Connection) -> dict[str, int]:
    """Every image that the database knows, with its size in bytes."""
    table = schema.media
    return dict(connection.execute(select(table.c.sha256, table.c.size_bytes)).all())


QUESTIONS: Final[dict[str, tuple[Callable[[Connection], list[str]], str]]] = {
    "references": (missing_parents, "restore the state from a backup"),
    "groups": (half_kept_groups, "restore the state from a backup, or erase the group"),
    "tombstones": (tombstones_with_content, "erase the group again"),
    "signals": (rival_signals, "restore the state from a backup"),
    "signal content": (signals_on_strangers, "restore the state from a backup, or erase the group"),
    "feed": (feed_gaps, "restore the state from a backup; until then learners may miss changes"),
    "revisions": (feed_ahead, "restore the state from a backup"),
    "hold-out": (feed_of_holdout, "quarantine the adapters that were trained since; the gate has seen these prompts"),
    "routing": (misrouted, "plumbline rollback"),
    "adapter rows": (strange_adapters, "restore the state from a backup; until then upload nothing"),
}
"""What is asked: name → the question, and what to do about a finding."""


def _some(connection: Connection, query: Any) -> Sequence[Any]:
    return connection.execute(query.limit(MOST)).scalars().all()


def _pages(connection: Connection) -> Iterator[Sequence[Any]]:
    """The live signals, page by page."""
    table = schema.signals
    after = ""
    while True:
        query = (
            select(table.c.id, table.c.group_id, table.c.kind, table.c.payload)
            .where(table.c.id > after, table.c.is_live)
            .order_by(table.c.id)
            .limit(PAGE)
        )
        page = connection.execute(query).mappings().all()
        if not page:
            return
        yield page
        after = page[-1]["id"]


def _named(kind: SignalKind, payload: dict[str, Any]) -> list[str]:
    """The candidates that a signal is about."""
    match kind:
        case SignalKind.CHOICE:
            return [payload["chosen"], *payload["rejected"]]
        case SignalKind.REGENERATE:
            return [payload["chosen"], payload["rejected"]]
        case SignalKind.RANKING:
            return list(payload["ranking"])
        case SignalKind.CORRECTION:
            return [one for one in (payload.get("candidate_id"), payload["correction_id"]) if one is not None]
        case SignalKind.TIE:
            return []
        case _:
            return [payload["candidate_id"]] if "candidate_id" in payload else []
