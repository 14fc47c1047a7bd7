"""Safety rules find what they name, in linear time, and a policy of them fails closed."""

import time
from dataclasses import dataclass

import pytest

from reward.policy import SafetyPolicy, Terms, is_blocked
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


def test_a_rule_that_raises_blocks_whatever_it_asks_for() -> None:
    """Its strictest reading, of a whole answer, of a growing one and of a question; marked as no finding."""
    for action in (Action.FLAG, Action.PENALISE, Action.REDACT, Action.REVISE):
        policy = SafetyPolicy(inputs=(BrokenRule(action=action),), outputs=(BrokenRule(action=action),))
        assert [(one.action, one.has_failed) for one in policy.check_output("hello")] == [(Action.BLOCK, True)]
        assert is_blocked(policy.check_input("hello"))
        assert policy.view("hello").is_blocked or action in {Action.FLAG, Action.PENALISE}


@pytest.mark.parametrize("pattern", [r"x.{0,100}y", r"(?:x{1,20}){1,20}y", r"(x|xx){1,50}z"])
def test_redacting_takes_linear_time(pattern: str) -> None:
    """All matches of a bounded pattern, and all near misses, in one pass."""
    rule = PatternRule("hostile", pattern, Action.REDACT)
    started = time.perf_counter()
    rule.check("x" * 100_000)
    rule.check("xy" * 50_000)
    assert time.perf_counter() - started < 3.0


def test_a_pattern_that_needs_too_much_memory_is_refused() -> None:
    """RE2's own bound, at the start."""
    with pytest.raises(ValueError, match="rule vast"):
        PatternRule("vast", r"((a{1,500}){1,500}){1,500}")


def test_penalties_add_up_and_declared_versions_lead() -> None:
    """A verdict says which version of which rule spoke."""
    first, second = PatternRule("a", "x", Action.PENALISE), PatternRule("b", "y", Action.PENALISE)
    terms = {"a": Terms(penalty=0.5, version="7"), "b": Terms(penalty=1.0)}
    reading = SafetyPolicy(outputs=(first, second), terms=terms).read("x y")
    assert reading.penalty == 1.5
    assert reading.verdicts[0].version == f"7+{first.version}"
    assert not is_blocked(reading.verdicts)
