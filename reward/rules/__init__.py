"""Safety rules: each a small frozen value with `check(text) -> Verdict`, or `check(images)`."""

from reward.rules.images import ImageLimitRule, KnownImageRule
from reward.rules.language import LanguageRule
from reward.rules.length import LengthRule
from reward.rules.pattern import PatternRule
from reward.rules.pii import PiiRule
from reward.rules.repetition import RepetitionRule
from reward.rules.words import WordsRule

__all__ = [
    "ImageLimitRule",
    "KnownImageRule",
    "LanguageRule",
    "LengthRule",
    "PatternRule",
    "PiiRule",
    "RepetitionRule",
    "WordsRule",
]
