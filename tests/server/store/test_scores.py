"""What scorers said lately, as a calibration reads it back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from server.store import groups
from server.store.database import Database
from server.store.records import CandidateRecord, GroupRecord, GroupState
from tests.server.store.rows import candidate, group


def scored(group_id: str, *values: float, **changes: Any) -> GroupRecord:
    candidates = tuple(candidate(group_id, number, scores={"taste": ["1", one]}) for number, one in enumerate(values))
    return _with(group(group_id, **changes), candidates)


def _with(one: GroupRecord, candidates: tuple[CandidateRecord, ...]) -> GroupRecord:
    return replace(one, candidates=candidates)


async def test_scores_come_back_oldest_first(database: Database) -> None:
    """Of the newest completed groups of the alias; of whole candidates alone, and of those that were scored."""
    made = [
        scored("b", 3.0, 4.0, created_at=2000.0),
        scored("a", 1.0, 2.0, created_at=1000.0),
        scored("other", 9.0, created_at=3000.0, alias="other"),
        scored("failed", 9.0, created_at=3000.0, state=GroupState.FAILED),
    ]
    partial = scored("c", 5.0, 6.0, 7.0, created_at=3000.0)
    ends = ("stop", "step", "rejected")
    ended = tuple(replace(one, finish_reason=end) for one, end in zip(partial.candidates, ends, strict=True))
    unscored = candidate("c", 3, scores={})
    made.append(_with(partial, (*ended, unscored)))
    await database.write(lambda c: groups.insert_groups(c, made))
    for limit, values in ((10, [1.0, 2.0, 3.0, 4.0, 5.0]), (2, [3.0, 4.0, 5.0])):
        found = await database.read(lambda c, limit=limit: groups.recent_scores(c, "default", limit))
        assert found == [{"taste": ["1", value]} for value in values]


async def test_what_a_candidate_shares_is_kept(database: Database) -> None:
    """With its own tokens; nothing is shared unless it says so."""
    one = group("g")
    shared = _with(one, (one.candidates[0], replace(one.candidates[1], shared_tokens=2, finish_reason="step")))
    await database.write(lambda c: groups.insert_group(c, shared))
    found = await database.read(lambda c: groups.get_group(c, "g"))
    assert found is not None
    assert [one.shared_tokens for one in found.candidates] == [0, 2]
