"""Selection is exact: the probability it reports is the probability it has."""

import random
from collections import Counter

import pytest

from reward.selection import argmax, ranked, rival
from reward.types import Action, Candidate, Judgement, Verdict


def judged(total: float | None, *, blocked: bool = False, text: str = "x") -> Judgement:
    verdicts = (Verdict("rule", "1", Action.BLOCK),) if blocked else ()
    return Judgement(Candidate(0, "base", text, (1,), (-1.0,), "stop"), verdicts, (), total)


def test_argmax_takes_the_best_feasible_candidate() -> None:
    """A blocked candidate never wins, however well it scores; the first of equals does."""
    assert argmax([judged(1.0), judged(9.0, blocked=True), judged(2.0), judged(2.0)]).index == 2


def test_without_totals_the_first_clean_candidate_is_taken() -> None:
    """Taste fails open, and not at random (I7)."""
    assert argmax([judged(None, blocked=True), judged(None), judged(None)]).index == 1


def test_a_candidate_without_a_total_loses_to_any_with_one() -> None:
    """An unscored candidate is never a maximum."""
    assert argmax([judged(None), judged(-100.0)]).index == 1


def test_nothing_feasible_selects_nothing() -> None:
    """All blocked: no index, and no probability for anyone."""
    selection = argmax([judged(1.0, blocked=True)])
    assert selection.index is None
    assert selection.probabilities == (0.0,)


@pytest.mark.parametrize("explore", [0.0, 0.3, 1.0])
def test_reported_probabilities_are_the_observed_ones(explore: float) -> None:
    """Drawn many times, each candidate wins as often as its probability says."""
    judgements = [judged(1.0), judged(3.0), judged(2.0, blocked=True), judged(None)]
    rng = random.Random(0)
    draws = 20_000
    wins = Counter(argmax(judgements, explore=explore, draw=rng.random()).index for _ in range(draws))
    expected = argmax(judgements, explore=explore, draw=0.999999).probabilities
    assert sum(expected) == pytest.approx(1.0)
    for index, probability in enumerate(expected):
        assert wins[index] / draws == pytest.approx(probability, abs=0.015)


def test_ranked_keeps_the_winner_first_and_leaves_out_the_blocked() -> None:
    """Further choices follow by falling total."""
    judgements = [judged(1.0), judged(5.0, blocked=True), judged(3.0), judged(None)]
    assert ranked(judgements, 0, 3) == (0, 2, 3)
    assert ranked(judgements, 2, 1) == (2,)


def test_the_rival_is_the_nearest_that_says_something_else() -> None:
    """Another order says nothing new, another wording is about style; a blocked one is never shown."""
    texts = [
        "a cat and a dog",
        "a dog and a cat.",
        "I can see a cat and also a dog",
        "a cat and a dog and a cow",
    ]
    judgements = [judged(1.0, text=text) for text in texts]
    assert rival(judgements, 0) == 3
    assert rival(judgements[:3], 0) == 2
    assert rival(judgements[:2], 0) is None
    assert rival(judgements[:3], 0, of_content=True) is None
    assert rival(judgements, 0, of_content=True) == 3
    assert rival([*judgements[:2], judged(1.0, blocked=True, text="a cow")], 0) is None
