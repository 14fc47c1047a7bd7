"""Which feasible candidate becomes the answer, with the exact probability of every one. Pure.

strategies   argmax, soft, mbr, pessimistic; `STRATEGIES` is the one table of them
consensus    how far texts agree (what `mbr` goes by)
choosing     a strategy's choice among judged candidates, with exploration
comparing    what is shown beside the winner: further choices, a rival; how undecided the totals are
"""

from reward.selection.choosing import choose
from reward.selection.comparing import entropy, margin, ranked, rival
from reward.selection.strategies import STRATEGIES, Strategy

__all__ = ["STRATEGIES", "Strategy", "choose", "entropy", "margin", "ranked", "rival"]
