"""Every running canary's evidence, read from the store: what any server wrote counts, and a restart changes nothing.

A trial that goes on in memory is only the sum of what was read so far. What a person thought better of before it was
read does not count; what was read counts, so after a restart their later opinion may stand in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from server.adapters.canary.trial import Trial
from server.config import RolloutConfig
from server.store import evidence
from server.store.database import Database
from server.store.evidence import Page
from server.store.records import Position, Routing, TrialRecord


@dataclass(slots=True)
class Run:
    """One canary's run: who is compared since when, what came in, and up to where it was read."""

    record: TrialRecord
    trial: Trial
    position: Position
    canary_answers: int = 0


class Follower:
    """The runs of all aliases. For one event loop, `read` of one alias by one caller at a time."""

    def __init__(self, database: Database, settings: Mapping[str, RolloutConfig]) -> None:
        """`settings`: by alias."""
        self._database = database
        self._settings = settings
        self._runs: dict[str, Run] = {}

    def known(self, alias: str) -> Run | None:
        """The alias's run as it was read last."""
        return self._runs.get(alias)

    async def read(self, routing: Routing) -> Run | None:
        """Catch up with the store. None where no canary runs, or this view of routing is not the store's."""
        page = await self._next_page(routing)
        while page is not None:
            run = self._runs[routing.alias]
            for answer in page.answers:
                run.trial.answered(answer)
                run.canary_answers += answer.is_canary
            for rating in page.ratings:
                run.trial.rated(rating)
            run.position = page.position
            if page.is_last:
                return run
            page = await self._next_page(routing)
        return None

    async def _next_page(self, routing: Routing) -> Page | None:
        known = self._runs.get(routing.alias)

        def look(connection: Connection) -> tuple[TrialRecord, Page] | None:
            record = evidence.last_trial(connection, routing.alias)
            if record is None or record.canary != routing.canary:
                return None
            is_same = known is not None and known.record.generation == record.generation
            after = known.position if known is not None and is_same else record.beginning
            return record, evidence.read_after(connection, record, after)

        found = await self._database.read(look) if routing.canary is not None else None
        if found is None:
            self._runs.pop(routing.alias, None)
            return None
        record, page = found
        if known is None or known.record.generation != record.generation:
            trial = Trial(record.generation, self._settings[routing.alias], record.share)
            self._runs[routing.alias] = Run(record, trial, record.beginning)
        return page
