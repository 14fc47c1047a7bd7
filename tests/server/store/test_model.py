"""The store against a simple model in memory: any sequence of events, restarts included, leaves both the same.

The model keeps what people said in plain lists and a feed in a list for each alias. After every step the database is
asked for everything that a reader can ask for, and for what has to be true of its rows.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection, delete

from server.config import SignalsConfig
from server.errors import BadRequest
from server.preferences import derive
from server.store import erasure, feed, groups, quarantine, schema, signals
from server.store.database import Database
from server.store.integrity import QUESTIONS
from server.store.records import CandidateRecord, FeedKind, GroupRecord, GroupState, SignalKind, SignalRecord
from tests.server.store.conftest import NewDatabase
from tests.server.store.rows import candidate, group

PEOPLE = st.sampled_from(["ann", "bob"])
KINDS = st.sampled_from([kind for kind in SignalKind if kind is not SignalKind.REGENERATE])
SAYINGS = st.lists(st.tuples(PEOPLE, KINDS, st.integers(0, 1)), min_size=2, max_size=8)
ALIASES = st.sampled_from(["cats", "dogs"])
SETTINGS = SignalsConfig(ai_pairs=True)
TENANT = "default"


@dataclass
class ModelGroup:
    record: GroupRecord
    said: list[SignalRecord] = field(default_factory=list)
    revision: int = 0

    @property
    def is_gone(self) -> bool:
        return self.record.state in erasure.GONE

    @property
    def live(self) -> list[SignalRecord]:
        return [one for one in self.said if one.is_live and not one.is_quarantined]


class Store(RuleBasedStateMachine):
    """The rules; `new_database` is set by the test."""

    new_database: NewDatabase
    asked = Bundle("asked")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.model: dict[str, ModelGroup] = {}
        self.told: dict[str, list[tuple[str, int, FeedKind]]] = {"cats": [], "dogs": []}
        self.count = 0
        self.database = self.opened()

    def opened(self) -> Database:
        database = type(self).new_database()
        self.loop.run(database.start())
        return database

    def write(self, operation: Callable[[Connection], Any]) -> Any:
        return self.loop.run(self.database.write(operation))

    def teardown(self) -> None:
        self.loop.run(self.database.close())
        self.loop.close()

    @initialize(target=asked)
    def begin(self) -> Any:
        """A few groups. All examples share a database: making one takes longer than an example."""

        def run(connection: Connection) -> None:
            for table in reversed(schema.metadata.sorted_tables):
                connection.execute(delete(table))

        self.write(run)
        return multiple(
            self.ask("ann", "cats", False, 2), self.ask("bob", "cats", False, 3), self.ask("bob", "dogs", True, 3)
        )

    # --- what happens -------------------------------------------------------------------------------------

    @rule(target=asked, person=PEOPLE, alias=ALIASES, is_holdout=st.booleans(), candidates=st.integers(2, 3))
    def ask_more(self, person: str, alias: str, is_holdout: bool, candidates: int) -> str:
        return self.ask(person, alias, is_holdout, candidates)

    def ask(self, person: str, alias: str, is_holdout: bool, candidates: int) -> str:
        """A group: of its candidates the last is blocked, where there are three."""
        group_id = f"cmpl-{self.tick():04}"
        answers = tuple(
            candidate(group_id, position, is_blocked=position == 2, is_shown=position < 2)
            for position in range(candidates)
        )
        record = group(group_id, alias=alias, user_hash=person, is_holdout=is_holdout, created_at=float(self.count))
        record = dataclasses.replace(record, candidates=answers)
        self.model[group_id] = ModelGroup(record)

        def run(connection: Connection) -> None:
            groups.insert_group(connection, record)
            if not is_holdout and derive(record, [], SETTINGS):
                feed.append(connection, alias, group_id, FeedKind.SIGNAL, 0.0)

        self.write(run)
        if not is_holdout and derive(record, [], SETTINGS):
            self.tell([group_id], FeedKind.SIGNAL)
        return group_id

    @rule(group_id=asked, sayings=SAYINGS)
    def say(self, group_id: str, sayings: list[tuple[str, SignalKind, int]]) -> None:
        """Any kinds of signals; a later one in the same slot replaces the earlier."""
        for person, kind, which in sayings:
            if not self.model[group_id].is_gone:
                self.say_one(group_id, person, kind, which)

    def say_one(self, group_id: str, person: str, kind: SignalKind, which: int) -> None:
        one = self.model[group_id]
        signal, correction = self.signal(group_id, person, kind, which)
        self.write(lambda c: self.keep(c, one, signal, correction))
        one.said = [
            dataclasses.replace(earlier, is_live=False)
            if (earlier.annotator, earlier.slot) == (person, signal.slot)
            else earlier
            for earlier in one.said
        ]
        one.said.append(signal)
        if correction is not None:
            one.record = dataclasses.replace(one.record, candidates=(*one.record.candidates, correction))
        if not one.record.is_holdout:
            self.tell([group_id], FeedKind.SIGNAL)

    @rule(group_id=asked, person=PEOPLE, kind=KINDS)
    def fail_to_say(self, group_id: str, person: str, kind: SignalKind) -> None:
        """A transaction that breaks off after its last write leaves nothing."""
        one = self.model[group_id]
        if one.is_gone:
            return
        signal, correction = self.signal(group_id, person, kind, 0)

        def run(connection: Connection) -> None:
            self.keep(connection, one, signal, correction)
            raise BadRequest("no")

        with pytest.raises(BadRequest):
            self.write(run)

    @rule(person=PEOPLE, aside=st.booleans())
    def set_aside(self, person: str, aside: bool) -> None:
        """Quarantine of an annotator, or its end."""
        self.write(lambda c: quarantine.of_annotator(c, person, aside=aside, now=0.0))
        changed = []
        for group_id, one in self.model.items():
            said = [
                dataclasses.replace(signal, is_quarantined=aside) if signal.annotator == person else signal
                for signal in one.said
            ]
            if said != one.said:
                changed.append(group_id)
                one.said = said
        self.tell_again(changed, FeedKind.QUARANTINE)

    @rule(person=PEOPLE)
    def erase(self, person: str) -> None:
        """A person takes theirs back: what they asked, and what they said anywhere."""
        mine = self.loop.run(self.database.read(lambda c: erasure.groups_of(c, TENANT, person)))
        assert mine == [one for one in self.model if self.model[one].record.user_hash == person]
        self.write(lambda c: erasure.erase(c, mine, person, 0.0))
        self.clear(mine, GroupState.ERASED, FeedKind.ERASE)
        changed = []
        for group_id, one in self.model.items():
            gone = [signal for signal in one.said if signal.annotator == person]
            typed = {signal.payload.get("correction_id") for signal in gone}
            one.said = [signal for signal in one.said if signal.annotator != person]
            left = tuple(answer for answer in one.record.candidates if answer.id not in typed)
            one.record = dataclasses.replace(one.record, candidates=left)
            changed += [group_id] if gone else []
        self.tell_again(changed, FeedKind.ERASE)

    @rule(share=st.floats(0, 1))
    def expire(self, share: float) -> None:
        """The oldest go."""
        before = self.count * share
        due = [one for one in self.model if not self.model[one].is_gone and self.model[one].record.created_at < before]
        self.write(lambda c: erasure.expire(c, TENANT, before, 1000, 0.0))
        self.clear(due, GroupState.EXPIRED, FeedKind.EXPIRE)

    @rule()
    def restart(self) -> None:
        """An orderly end and a new start."""
        self.loop.run(self.database.close())
        self.database = self.opened()

    # --- how the model and the store do it ----------------------------------------------------------------

    def tick(self) -> int:
        self.count += 1
        return self.count

    def signal(
        self, group_id: str, person: str, kind: SignalKind, which: int
    ) -> tuple[SignalRecord, CandidateRecord | None]:
        chosen, other = f"{group_id}.{which}", f"{group_id}.{1 - which}"
        slot, payload, correction = f"{kind}:{chosen}", {"candidate_id": chosen}, None
        match kind:
            case SignalKind.RATING:
                payload |= {"rating": 1.0 if which else -1.0}
            case SignalKind.CORRECTION:
                answers = self.model[group_id].record.candidates
                position = answers[-1].position + 1 if answers else 0
                name = f"{group_id}.c{self.tick()}"
                correction = candidate(group_id, position, id=name, adapter="human", is_shown=False, total=None)
                payload |= {"correction_id": correction.id}
            case SignalKind.CHOICE:
                slot, payload = "comparison", {"chosen": chosen, "rejected": [other]}
            case SignalKind.RANKING:
                slot, payload = "comparison", {"ranking": [chosen, other]}
            case SignalKind.TIE:
                slot, payload = "comparison", {"tie": "good"}
        return SignalRecord(f"sig-{self.tick():04}", group_id, kind, slot, person, 1.0, payload), correction

    def keep(
        self, connection: Connection, one: ModelGroup, signal: SignalRecord, correction: CandidateRecord | None
    ) -> None:
        if correction is not None:
            groups.add_candidate(connection, signal.group_id, correction)
        signals.insert_signal(connection, signal)
        if not one.record.is_holdout:
            feed.append(connection, one.record.alias, signal.group_id, FeedKind.SIGNAL, 0.0)

    def clear(self, group_ids: list[str], state: GroupState, kind: FeedKind) -> None:
        for group_id in group_ids:
            one = self.model[group_id]
            one.said = []
            one.record = dataclasses.replace(one.record, state=state, user_hash=None, candidates=(), prompt=[])
        self.tell_again(group_ids, kind)

    def tell(self, group_ids: list[str], kind: FeedKind) -> None:
        for group_id in group_ids:
            one = self.model[group_id]
            one.revision += 1
            self.told[one.record.alias].append((group_id, one.revision, kind))

    def tell_again(self, group_ids: list[str], kind: FeedKind) -> None:
        self.tell([one for one in sorted(group_ids) if self.model[one].revision], kind)

    # --- what is always true ------------------------------------------------------------------------------

    @invariant()
    def both_are_the_same(self) -> None:
        """Groups, live signals, examples and the feed, as any reader sees them; no hold-out in it."""
        self.loop.run(self.database.read(self.compare))

    def compare(self, connection: Connection) -> None:
        kept = {one.id: one for one in groups.get_groups(connection, list(self.model))}
        live = signals.live_signals(connection, list(self.model))
        assert set(kept) == set(self.model)
        for group_id, one in self.model.items():
            found = kept[group_id]
            assert (found.state, found.revision, found.prompt, found.candidates) == (
                one.record.state,
                one.revision,
                one.record.prompt,
                one.record.candidates,
            )
            assert live[group_id] == one.live
            assert derive(found, live[group_id], SETTINGS) == derive(one.record, one.live, SETTINGS)
        for alias, told in self.told.items():
            entries = feed.read_after(connection, alias, 0, 10_000)
            assert [entry.seq for entry in entries] == list(range(1, len(told) + 1))
            assert [(entry.group_id, entry.revision, entry.kind) for entry in entries] == told
            assert not any(self.model[entry.group_id].record.is_holdout for entry in entries)
            assert feed.head(connection, alias) == len(told)
        for question, _ in QUESTIONS.values():
            assert question(connection) == []


@pytest.mark.parametrize(
    ("examples", "steps"), [(12, 12), pytest.param(150, 50, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_the_store_does_what_the_model_does(new_database: NewDatabase, examples: int, steps: int) -> None:
    """Whatever happens in whatever order."""

    class Here(Store):
        pass

    Here.new_database = staticmethod(new_database)
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=examples < 100,
            phases=set(Phase) if examples >= 100 else {Phase.generate},  # making a finding smaller takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
