"""Safety rules find what they name, in linear time, and a policy of them fails closed."""

import time
from dataclasses import dataclass

import pytest

from reward.policy import SafetyPolicy, is_blocked
from reward.rules import LengthRule, PatternRule, RepetitionRule
from reward.types import Action, Verdict

SECRET = PatternRule("secret", r"access code is \d+")


@pytest.mark.parametrize(
    ("text", "blocked"),
    [("My ACCESS code is 4821.", True), ("There is no code.", False), ("", False), ("access code is none", False)],
)
def test_pattern_rule_finds_its_pattern_whatever_the_case(text: str, blocked: bool) -> None:
    """A pattern applies where it occurs and nowhere else."""
    assert (SECRET.check(text).action is Action.BLOCK) is blocked


def test_pattern_rule_takes_linear_time() -> None:
    """A pattern that ruins backtracking engines is harmless."""
    rule = PatternRule("hostile", r"(a+)+b")
    started = time.perf_counter()
    rule.check("a" * 100_000)
    assert time.perf_counter() - started < 1.0


def test_pattern_that_cannot_be_linear_is_refused_by_name() -> None:
    """Backreferences stop the start with a clear error, not a request."""
    with pytest.raises(ValueError, match="rule echo"):
        PatternRule("echo", r"(a)\1")


def test_pattern_version_follows_the_pattern() -> None:
    """Stored verdicts tell which pattern spoke."""
    assert PatternRule("a", "x").version != PatternRule("a", "y").version


def test_length_and_repetition_rules_apply_beyond_their_bounds() -> None:
    """At the bound a text passes, beyond it does not."""
    assert LengthRule("l", 3).check("abc").action is Action.ALLOW
    assert LengthRule("l", 3).check("abcd").action is Action.BLOCK
    assert RepetitionRule("r", 2).check("Yes. Yes. No.").action is Action.ALLOW
    assert RepetitionRule("r", 2).check("Yes. yes! Yes.").action is Action.BLOCK


def test_reasons_never_quote_the_text() -> None:
    """A verdict can be shown to anyone."""
    assert "4821" not in SECRET.check("access code is 4821").reason


@dataclass(frozen=True)
class BrokenRule:
    name: str = "broken"
    version: str = "1"
    action: Action = Action.BLOCK
    reach: int | None = 0

    def check(self, text: str) -> Verdict:
        raise RuntimeError(text)


def test_a_rule_that_raises_blocks() -> None:
    """Safety fails closed (I7), and the failure does not carry the text along."""
    verdicts = SafetyPolicy(outputs=(BrokenRule(),)).check_output("hello")
    assert is_blocked(verdicts)
    assert "hello" not in verdicts[0].reason


def test_a_flagging_rule_does_not_block() -> None:
    """Flag is a note, not a filter."""
    rule = PatternRule("note", "x", Action.FLAG)
    assert not SafetyPolicy(outputs=(rule,)).blocks_output("x")
