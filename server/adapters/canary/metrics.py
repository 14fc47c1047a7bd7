"""What a canary is judged by: each metric with its two tests. Pure.

| metric | a user's contribution | harm: evidence against | non-inferiority: evidence against |
|---|---|---|---|
| thumbs | (1 - rating) / 2 of the first | a mean of at most the active one's | a mean higher by the margin |
| rewards | minus the first reward | losing at most as often as winning | losing more often, by the margin |
| latency | log of the first duration | the same, with a ratio allowed | the same, with a ratio allowed |
| safety, errors | whether the first answer was | no more than its share of them | a rate higher by the margin |

Rewards and durations have no bounds and no known scale, so a canary value is only ranked against the active ones that
it was matched with: won, tied or lost. Rates are tiny, so their harm asks of each user to whom it ever happened
whether the canary served that user: where nothing differs, the chance of that is the canary's share, because users
were assigned by it, however active a user is and whatever the hour.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, log, log1p

from server.adapters.canary.betting import BETS, Bets, Shares
from server.adapters.canary.matching import Matching


def difference(canary: float, active: float) -> float:
    return canary - active


def order(canary: float, active: float) -> float:
    """1/2 where the canary is worse, -1/2 where it is better."""
    return ((canary > active) - (canary < active)) / 2


class Level:
    """A number that every user has: thumbs, rewards, latency. Larger is worse."""

    def __init__(
        self, compare: Callable[[float, float], float], *, span: float, variance: float, margin: float, share: float
    ) -> None:
        """`compare` lies in -`span` to `span`. `variance`: of one contribution, at most; for `users_needed` only.
        `margin`: the mean at which a canary is called inferior.
        """
        self.matching = Matching(compare, share)
        self.margin = margin
        self._variance = variance
        self.harm = Bets(span)
        self.non_inferiority = Bets(span - margin)

    def add(self, value: float, is_canary: bool) -> None:
        """A user's contribution."""
        block = self.matching.add(value, is_canary)
        if block is not None:
            self.harm.bet(block.worse, block.weight)
            self.non_inferiority.bet(self.margin - block.worse, block.weight)

    def users_needed(self, evidence: float) -> int:
        """Canary users after which an equal canary has about shown non-inferiority: capital's growth with the best
        bet is half the squared margin over the variance (Waudby-Smith and Ramdas).
        """
        blocks = 2.0 * log(evidence) * self._variance * self.matching.ordinary / self.margin**2
        return ceil(blocks * self.matching.needed[True])


class Rate:
    """Something that should hardly ever happen: blocked and failed answers."""

    def __init__(self, *, margin: float, share: float) -> None:
        """`margin`: the difference that is inferior. `share`: at 0 and at 1 one side is empty, and nothing shows."""
        self.matching = Matching(difference, share)
        self.margin = margin
        self._is_comparable = 0.0 < share < 1.0
        self.harm = Shares(share if self._is_comparable else 0.5)
        self.non_inferiority = Bets(1.0 - margin)
        self.events = {True: 0, False: 0}

    def add(self, has_happened: bool, is_canary: bool) -> None:
        """A user's first answer."""
        block = self.matching.add(float(has_happened), is_canary)
        if block is not None:
            self.non_inferiority.bet(self.margin - block.worse, block.weight)

    def happened(self, is_canary: bool) -> None:
        """To a user for the first time, whatever the number of the answer."""
        self.events[is_canary] += 1
        if self._is_comparable:
            self.harm.bet(is_canary)

    def users_needed(self, evidence: float) -> int:
        """The same, where it never happens: only the boldest bet grows."""
        blocks = log(evidence * len(BETS)) / log1p(BETS[-1] * self.margin / (1.0 - self.margin))
        return ceil(blocks * self.matching.needed[True])
