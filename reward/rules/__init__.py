"""Safety rules: each a small frozen value with `check(text) -> Verdict`."""

from reward.rules.length import LengthRule
from reward.rules.pattern import PatternRule
from reward.rules.repetition import RepetitionRule

__all__ = ["LengthRule", "PatternRule", "RepetitionRule"]
