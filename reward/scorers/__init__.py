"""Scorers: each a small class with `async score(prompt, candidates)`."""

from reward.scorers.implicit import ImplicitScorer
from reward.scorers.length import LengthScorer
from reward.scorers.logprob import LogprobScorer
from reward.scorers.repetition import RepetitionScorer

__all__ = ["ImplicitScorer", "LengthScorer", "LogprobScorer", "RepetitionScorer"]
