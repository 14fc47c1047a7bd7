"""What people preferred as rewards of a group, for the objectives on ranked lists (`rank_rewards`). Pure.

A ranking, a choice or a correction says of two answers at a time which is better. An answer's reward is the share of
those comparisons that it won, by each person, then their mean (Borda's count). It takes the place of what scorers say,
in the groups that people compared. The pairs themselves stay, for the objectives on pairs and for measuring.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from learner.examples import COMPARISONS, Example, PairExample, RewardedExample


def with_ranks(example: Example, weight: float, *, keep_others: bool) -> Example | None:
    """The example with its people's order as rewards, `weight` each, anew if it had such before; None: nothing is left.

    `keep_others`: whether pairs that are no comparison by a person, a rule's for example, stay.
    """
    said = [pair for pair in example.pairs if pair.source in COMPARISONS]
    shares = _shares(said)
    ranked = tuple(RewardedExample(answer, share, weight, is_ranked=True) for answer, share in sorted(shares.items()))
    if len(set(shares.values())) < 2:
        ranked = tuple(one for one in example.rewarded if not one.is_ranked)
    return replace(example, rewarded=ranked).reduced(example.pairs if keep_others else said, example.unpaired)


def _shares(pairs: Iterable[PairExample]) -> dict[int, float]:
    """By answer, the mean over those who compared it of the share of comparisons that it won."""
    won: dict[tuple[int, str], list[bool]] = defaultdict(list)
    for pair in pairs:
        won[pair.chosen, pair.annotator].append(True)
        won[pair.rejected, pair.annotator].append(False)
    by_answer: dict[int, list[float]] = defaultdict(list)
    for (answer, _), wins in won.items():
        by_answer[answer].append(sum(wins) / len(wins))
    return {answer: sum(shares) / len(shares) for answer, shares in by_answer.items()}
