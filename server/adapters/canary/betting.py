"""Evidence that may be looked at after every answer without paying for the looking. Pure.

A betting e-process (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2024): under
the null the differences have a mean of at most zero, whatever came before. Capital grows by 1 + λd for several fixed
λ at once, and their average is a non-negative supermartingale under the null. By Ville's inequality it ever reaches
1/alpha with a chance of at most alpha.
"""

from __future__ import annotations

BETS = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Shares of the largest allowed bet: small ones find small differences, large ones find large differences fast."""
MOST = 1e100
"""Capital is cut here, so that evidence without end stays a number."""


class EProcess:
    """Capital against "the mean is at most zero", for values in [-`largest_loss`, ∞)."""

    __slots__ = ("_bets", "_capital", "highest")

    def __init__(self, largest_loss: float) -> None:
        self._bets = [bet / largest_loss for bet in BETS]
        self._capital = [1.0] * len(BETS)
        self.highest = 1.0
        """The highest capital there ever was: what was shown once stays shown."""

    @property
    def value(self) -> float:
        return sum(self._capital) / len(self._capital)

    def bet(self, difference: float) -> None:
        self._capital = [
            min(capital * (1.0 + bet * difference), MOST)
            for capital, bet in zip(self._capital, self._bets, strict=True)
        ]
        self.highest = max(self.highest, self.value)
