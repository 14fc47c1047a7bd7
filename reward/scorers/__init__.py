"""Scorers that need nothing but the answer, or what generation gave anyway: each a small class with
`async score(prompt, candidates)`. Those that ask others over a network are in `server/scorers/`.
"""

from reward.scorers.certainty import SelfCertaintyScorer
from reward.scorers.format import FormatScorer
from reward.scorers.implicit import ImplicitScorer
from reward.scorers.language import LanguageScorer
from reward.scorers.length import LengthScorer
from reward.scorers.logprob import LogprobScorer
from reward.scorers.refusal import RefusalScorer
from reward.scorers.repetition import RepetitionScorer
from reward.scorers.schema import SchemaScorer

__all__ = [
    "FormatScorer",
    "ImplicitScorer",
    "LanguageScorer",
    "LengthScorer",
    "LogprobScorer",
    "RefusalScorer",
    "RepetitionScorer",
    "SchemaScorer",
    "SelfCertaintyScorer",
]
