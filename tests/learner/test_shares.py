"""No single person fills a round, and few people still teach."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from learner.examples import Answer, Example, PairExample, UnpairedExample
from learner.shares import bounded, most_each


def answer(name: str) -> Answer:
    return Answer(name, (1, 2), "stop", may_be_positive=True, is_human=False)


def choice(group: int, annotator: str, source: str = "choice") -> Example:
    """A group in which one annotator chose once."""
    answers = (answer(f"{group}.0"), answer(f"{group}.1"))
    return Example(f"g{group}", (1,), (), answers, (PairExample(0, 1, 1.0, source, annotator),), ())


def said(examples: list[Example]) -> Counter[str]:
    return Counter(one.annotator for example in examples for one in (*example.pairs, *example.unpaired))


@pytest.mark.parametrize(
    ("counts", "share", "floor", "most"),
    [
        ([1000, *[10] * 20], 0.2, 5, 50),  # 50 of 250
        ([1000, 1000, *[10] * 20], 0.2, 5, 66),  # 66 of 332
        ([100, 100, 100], 0.2, 5, 100),  # an equal part
        ([500], 0.2, 50, 500),  # alone
        ([500, 3], 0.2, 50, 50),  # the floor
        ([500, 3], 0.2, 1, 3),
        ([1000, *[10] * 20], 1.0, 1, 1000),  # switched off
        ([1] * 49, 0.001, 1, 1),
        ([], 0.2, 50, 50),
    ],
)
def test_the_bound_is_a_share_of_what_stays(counts: list[int], share: float, floor: int, most: int) -> None:
    """The largest number at which nobody has more than the share, an equal part, or the floor."""
    assert most_each(counts, share, floor) == most


def test_whoever_says_too_much_keeps_the_newest() -> None:
    """The flood is cut to its share from the old end; everybody else keeps everything."""
    flood = [choice(number, "flood") for number in range(300)]
    others = [choice(300 + number, f"user {number}") for number in range(40)]
    kept = bounded([*flood[:150], *others, *flood[150:]], 0.2, 5)
    assert said(kept)["flood"] == 10
    assert sum(said(kept).values()) == 50
    assert [one.group for one in kept if said([one])["flood"]] == [f"g{number}" for number in range(290, 300)]


def test_what_no_person_said_is_not_counted() -> None:
    """Pairs of rules and scorers stay, however many there are, and make nobody's share larger."""
    rules = [choice(number, "rules", "safety") for number in range(100)]
    flood = [choice(100 + number, "flood") for number in range(50)]
    others = [choice(200 + number, f"user {number}") for number in range(20)]
    assert said(bounded([*rules, *flood, *others], 0.2, 1)) == said([*rules, *flood[:5], *others])


def test_a_group_keeps_what_others_said_of_it() -> None:
    """One person's part of a group goes, with the answers that only it was about; the rest keeps its meaning."""
    answers = (answer("a"), answer("b"), answer("c"))
    pairs = (PairExample(0, 1, 1.0, "choice", "flood"), PairExample(2, 1, 0.5, "choice", "ann"))
    shared = Example("shared", (1,), (), answers, pairs, (UnpairedExample(2, True, 1.0, "bob"),))
    flood = [choice(number, "flood") for number in range(5)]
    one, *_ = bounded([shared, *flood], 0.2, 5)
    assert [known.candidate for known in one.answers] == ["b", "c"]
    assert one.pairs == (PairExample(1, 0, 0.5, "choice", "ann"),)
    assert one.unpaired == (UnpairedExample(1, True, 1.0, "bob"),)


def test_bounding_twice_changes_nothing() -> None:
    """A resumed round, which sees only the groups of its plan, holds everyone to the same bound."""
    rng = random.Random(7)
    for _ in range(200):
        people = [f"user {number}" for number in range(rng.randint(1, 8))]
        weights = [rng.random() ** 3 for _ in people]
        examples = [choice(number, rng.choices(people, weights)[0]) for number in range(rng.randint(1, 120))]
        share, floor = rng.choice([0.05, 0.2, 0.5, 1.0]), rng.randint(1, 20)
        once = bounded(examples, share, floor)
        assert bounded(once, share, floor) == once
        counts = said(once)
        most, total = max(counts.values()), sum(counts.values())
        assert most <= max(floor, share * total, total / len(counts))
        assert counts.keys() == said(examples).keys()
