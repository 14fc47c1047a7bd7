"""How much of a growing text a rule needs to see before any of it may leave."""

from __future__ import annotations

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.policy import SafetyPolicy
from reward.ports import Rule
from reward.rules import LengthRule, PatternRule, RepetitionRule
from reward.rules.width import reach
from reward.types import Action


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("forbidden word", 15),
        (r"access code is \d", 17),
        (r"access code is \d+", 17),
        (r"access code is (\d+|none)", 20),
        (r"\d{6,16} expires", 25),
        (r"(?:\d{4}[ -]?){3}\d{1,4}", 17),
        (r"key: .{0,200}END", 209),
        (r"(secret|top secret).*", 11),
        (r"\bword\b", 5),
        (r"[[:alpha:]]{3}", 4),
        (r"key: .*END", None),
        (r"\d+ expires", None),
        (r"code \d+$", None),
        (r"\pL{3}", None),
        (r"a{,3}b", None),
    ],
)
def test_reach_of_a_pattern(pattern: str, expected: int | None) -> None:
    """The longest match, the shortest ending of an open one, None where nothing bounds it or nobody can tell."""
    assert reach(pattern) == expected


PARTS = st.sampled_from(
    [
        "a",
        "b",
        "[ab]",
        "[[:alpha:]]",
        ".",
        "(ab|b)",
        "(?:a|bb){1,3}",
        "a{2}",
        "b{0,3}",
        "a?",
        "(b+)",
        "a*",
        r"\b",
        "^",
        "$",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=5).map("".join), st.text("ab ", max_size=30))
def test_nothing_forbidden_is_further_back_when_the_pattern_is_first_found(pattern: str, text: str) -> None:
    """Letter by letter: at the first letter with which it is found, a match begins within the reach."""
    bound = reach(pattern)
    compiled = re2.compile(pattern)
    found_at = next((end for end in range(1, len(text) + 1) if compiled.search(text[:end])), None)
    if bound is None or found_at is None:
        return
    begins = [start for start in range(found_at + 1) if compiled.match(text[:found_at], start)]
    assert found_at - min(begins) <= bound


def test_a_policy_keeps_back_what_its_widest_blocking_rule_needs() -> None:
    """Rules that only flag, or that forbid no words, need nothing."""
    short, wide = PatternRule("short", "ab"), PatternRule("wide", "abcdef")
    assert held_back(short, wide) == 7
    assert held_back(LengthRule("l", 300), RepetitionRule("r", 2)) == 0
    assert held_back(PatternRule("note", "a.*b", Action.FLAG)) == 0
    assert held_back(short, PatternRule("open", "a.*b")) == 100


def held_back(*rules: Rule) -> int:
    """Characters of a harmless text that may not leave yet."""
    return 100 - len(SafetyPolicy(outputs=rules).view("z" * 100).text)
