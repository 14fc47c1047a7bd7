"""What a group teaches, rule by rule; pure."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from reward.policy import FAILED
from server.config import SignalsConfig
from server.preferences import derive
from server.store.records import GroupState, SignalKind, SignalRecord
from server.training import to_training_group
from tests.server.store.rows import candidate, group

SETTINGS = SignalsConfig()


def said(kind: SignalKind, **payload: Any) -> SignalRecord:
    return SignalRecord("sig-1", "g", kind, "slot", "ann", 1.0, payload)


def pairs(*candidates: Any, signal: SignalRecord | None = None, **changes: Any) -> list[tuple[str, str, str, str]]:
    """(chosen, rejected, source, annotator) of a group with these candidates."""
    record = dataclasses.replace(group("g", **changes), candidates=candidates)
    examples = derive(record, [signal] if signal else [], SETTINGS)
    return [(one.chosen, one.rejected, one.source, one.annotator) for one in examples.pairs]


CHOICE = said(SignalKind.CHOICE, chosen="g.0", rejected=["g.1"])


def two(**first: Any) -> list[Any]:
    return [candidate("g", 0, **first), candidate("g", 1)]


def test_a_choice_is_a_lesson() -> None:
    """The chosen one above the other, in the annotator's name."""
    assert pairs(*two(), signal=CHOICE) == [("g.0", "g.1", "choice", "ann")]


@pytest.mark.parametrize(
    "first",
    [
        {"is_blocked": True},
        {"shown_text": "redacted"},
        {"variant": "hint"},
        {"token_ids": ()},
        {"text": "answer 1"},
    ],
    ids=["blocked", "redacted", "another prompt", "no tokens", "the same text"],
)
def test_what_may_not_be_a_positive_is_none(first: dict[str, Any]) -> None:
    """Whoever chose it, there is no pair with it on top."""
    chosen = [pair for pair in pairs(*two(**first), signal=CHOICE) if pair[0] == "g.0"]
    assert chosen == []


@pytest.mark.parametrize("blocked", [False, True])
def test_what_was_given_up_half_way_teaches_nothing(blocked: bool) -> None:
    """Not as a worse answer either: nobody knows what it would have become. Nor does it leave for training."""
    given_up = candidate("g", 0, finish_reason="rejected", is_blocked=blocked)
    whole = [given_up, candidate("g", 1)]
    assert pairs(*whole) == []
    assert pairs(*whole, signal=said(SignalKind.CHOICE, chosen="g.1", rejected=["g.0"])) == []
    record = dataclasses.replace(group("g"), candidates=tuple(whole))
    assert [one.id for one in to_training_group(record, derive(record, [], SETTINGS)).candidates] == ["g.1"]


@pytest.mark.parametrize("state", [state for state in GroupState if state is not GroupState.COMPLETED])
def test_only_completed_groups_teach(state: GroupState) -> None:
    """Aborted, failed, erased and expired ones never do."""
    assert pairs(*two(), signal=CHOICE, state=state) == []


def test_a_blocked_answer_is_below_the_best_clean_one() -> None:
    """One lesson for each blocked answer, in the rules' name."""
    answers = [candidate("g", 0, is_blocked=True), candidate("g", 1), candidate("g", 2)]
    assert pairs(*answers) == [("g.2", "g.0", "safety", "rules")]


def test_what_was_typed_is_no_part_of_a_safety_pair() -> None:
    """It counts by its author's word alone: taken back or set aside, it must teach nothing."""
    blocked = candidate("g", 0, is_blocked=True, is_shown=False)
    typed = {"adapter": "human", "is_shown": False, "total": None}
    assert pairs(blocked, candidate("g", 1, **typed)) == []
    assert pairs(candidate("g", 0), candidate("g", 1, is_blocked=True, **typed)) == []


@pytest.mark.parametrize(("rating", "expected"), [(0.5, [(True, 0.5)]), (-1.0, [(False, 1.0)]), (0, [])])
def test_a_grade_keeps_its_strength(rating: float, expected: list[tuple[bool, float]]) -> None:
    """And nought says nothing."""
    signal = said(SignalKind.RATING, candidate_id="g.0", rating=rating)
    unpaired = derive(group("g", candidates=1), [signal], SETTINGS).unpaired
    assert [(one.desirable, one.weight) for one in unpaired] == expected


@pytest.mark.parametrize(("degraded", "count"), [((), 1), (("logprob",), 0)])
def test_a_thumb_pairs_with_a_clear_sibling(degraded: tuple[str, ...], count: int) -> None:
    """Where every scorer worked."""
    signal = said(SignalKind.RATING, candidate_id="g.1", rating=1.0)
    found = pairs(*two(), signal=signal, degraded=degraded)
    assert found == [("g.1", "g.0", "thumbs", "ann")] * count


def test_an_answer_to_another_prompt_is_in_no_example() -> None:
    """Made with a hidden instruction it would be learned as an answer to the user's prompt: neither for nor against."""
    variant = {"variant": "second_wave"}
    assert pairs(candidate("g", 0), candidate("g", 1, **variant), signal=CHOICE) == []
    assert pairs(candidate("g", 0, **variant), candidate("g", 1), signal=CHOICE) == []
    blocked = candidate("g", 0, is_blocked=True, **variant)
    assert pairs(blocked, candidate("g", 1)) == []


def test_a_rule_that_failed_teaches_nothing() -> None:
    """It found nothing out about the answer, which may be as good as the clean one."""
    failed, found = ["1", "block", FAILED], ["1", "block", "the pattern occurs"]
    clean = candidate("g", 1)
    assert pairs(candidate("g", 0, is_blocked=True, verdicts={"guard": failed}), clean) == []
    both = candidate("g", 0, is_blocked=True, verdicts={"guard": failed, "code": found})
    assert pairs(both, clean) == [("g.1", "g.0", "safety", "rules")]


def test_what_is_to_be_revised_is_below_a_clean_one() -> None:
    """It was not to be shown, for what it says."""
    revise = {"tone": ["1", "critique_and_revise", "a listed word occurs"]}
    answers = [candidate("g", 0, is_blocked=True, verdicts=revise), candidate("g", 1)]
    assert pairs(*answers) == [("g.1", "g.0", "safety", "rules")]


WITH_REWARDS = SignalsConfig(reward_groups=True, safety_pairs=False)


def is_rewarded(*candidates: Any, **changes: Any) -> bool:
    record = dataclasses.replace(group("g", **changes), candidates=candidates)
    examples = derive(record, [], WITH_REWARDS)
    assert bool(examples) == examples.rewarded == to_training_group(record, examples).rewarded
    return examples.rewarded


def test_candidates_with_rewards_teach_before_anybody_speaks() -> None:
    """Where the alias allows it; what the engine drew, how likely it was and what it was worth go along."""
    assert is_rewarded(*two())
    assert not derive(group("g"), [], SETTINGS)
    told = to_training_group(group("g"), derive(group("g"), [], WITH_REWARDS))
    assert [(one.total, len(one.logprobs)) for one in told.candidates] == [(0.0, 3), (1.0, 3)]


def test_each_scorers_own_value_goes_along() -> None:
    """By its name; one that gave none is left out."""
    scores = {"clip": ["v1", 0.25], "judge": ["v2", None], "broken": ["v1", float("inf")]}
    record = dataclasses.replace(group("g"), candidates=tuple(two(scores=scores)))
    told = to_training_group(record, derive(record, [], WITH_REWARDS))
    assert told.candidates[0].scores == {"clip": 0.25}


@pytest.mark.parametrize(
    ("first", "changes"),
    [
        ({"total": None}, {}),
        ({"total": 1.0}, {}),
        ({"is_blocked": True}, {}),
        ({"shown_text": "redacted"}, {}),
        ({"variant": "hint"}, {}),
        ({"finish_reason": "rejected"}, {}),
        ({}, {"on_policy_sampling": False}),
        ({}, {"degraded": ("logprob",)}),
        ({}, {"state": GroupState.ABORTED}),
    ],
    ids=[
        "no reward",
        "alike",
        "blocked",
        "redacted",
        "another prompt",
        "given up half-way",
        "another distribution",
        "a scorer failed",
        "aborted",
    ],
)
def test_only_eligible_groups_are_rewarded(first: dict[str, Any], changes: dict[str, Any]) -> None:
    """A policy gradient needs two answers of one logged distribution that are worth unlike much."""
    assert not is_rewarded(*two(**first), **changes)


def test_an_answer_given_up_half_way_spoils_its_group() -> None:
    """Those that are left were chosen by their reward: no fair sample of the policy."""
    assert is_rewarded(*(candidate("g", place) for place in range(3)))
    assert not is_rewarded(*(candidate("g", place) for place in range(3)), candidate("g", 3, finish_reason="rejected"))
