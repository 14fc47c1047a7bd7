"""Evidence that may be looked at after every answer without paying for the looking. Pure.

An e-process is capital that grows only by luck while its null hypothesis is true: by Ville's inequality it ever
reaches 1/alpha with a chance of at most alpha, whenever and however often one looks. Two kinds:

- `Bets`, on differences whose mean is at most zero under the null, whatever came before (Waudby-Smith and Ramdas,
  "Estimating means of bounded random variables by betting", 2024). Capital grows by 1 + λd.
- `Shares`, on which side a rare event falls (Wald's likelihood ratio of a Bernoulli variable). A difference of tiny
  rates moves `Bets` by little; given that an event happened, its side says all that it can say.

Both mix a few fixed bets: the mean of non-negative supermartingales is one.
"""

from __future__ import annotations

BETS = (0.15, 0.3, 0.6, 0.95)
"""Parts of the largest allowed bet: small ones find small differences, large ones find large differences fast."""
BOLDEST = 0.98
"""No bet is larger: capital never reaches zero."""
ODDS = (3.0, 9.0, 27.0)
"""How many times the odds of no difference an event's falling to the canary is bet at. The smallest of them gains from
1.8 times the odds on, at a share of .2: what is below that is not looked for."""
MOST = 1e100
"""Capital is cut here, so that evidence without end stays a number."""


class _Mixture:
    __slots__ = ("_capital", "highest")

    def __init__(self, parts: int) -> None:
        self._capital = [1.0] * parts
        self.highest = 1.0
        """The highest that the mean ever was: what was shown once stays shown."""

    @property
    def value(self) -> float:
        """The evidence now."""
        return sum(self._capital) / len(self._capital)

    def _grow(self, factors: list[float]) -> None:
        self._capital = [min(capital * factor, MOST) for capital, factor in zip(self._capital, factors, strict=True)]
        self.highest = max(self.highest, self.value)


class Bets(_Mixture):
    """Capital against "the mean is at most zero", for values that are at least -`largest_loss`."""

    __slots__ = ("_largest",)

    def __init__(self, largest_loss: float) -> None:
        super().__init__(len(BETS))
        self._largest = 1.0 / largest_loss

    def bet(self, difference: float, weight: float = 1.0) -> None:
        """`weight`: how much more certain than the ordinary this difference is, known before it was."""
        stake = difference * self._largest
        self._grow([1.0 + min(bet * weight, BOLDEST) * stake for bet in BETS])


class Shares(_Mixture):
    """Capital against "an event falls to the canary with a chance of at most `share`" (above 0, below 1)."""

    __slots__ = ("_factors",)

    def __init__(self, share: float) -> None:
        super().__init__(len(ODDS))
        odds = [factor * share / (1.0 - share) for factor in ODDS]
        expected = [one / (1.0 + one) for one in odds]
        self._factors = {
            True: [one / share for one in expected],
            False: [(1.0 - one) / (1.0 - share) for one in expected],
        }

    def bet(self, is_canary: bool) -> None:
        self._grow(self._factors[is_canary])
