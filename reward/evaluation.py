"""How good a scorer is on pairs of which the better answer is known. Pure.

A margin is the chosen answer's score less the rejected one's: right where it is above zero, undecided at zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959963984540054
BINS = 10


def accuracy(margins: Sequence[float]) -> float:
    """Share of pairs that are right; a tie is half right."""
    return sum((margin > 0) + 0.5 * (margin == 0) for margin in margins) / len(margins)


def wilson(share: float, count: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927)."""
    spread = Z95 * Z95 / count
    middle = (share + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def auc(margins: Sequence[float]) -> float | None:
    """Chance that a right decision has a larger margin than a wrong one, ties half; None without both kinds."""
    ranked = sorted((abs(margin), margin > 0) for margin in margins if margin)
    right = sum(is_right for _, is_right in ranked)
    wrong = len(ranked) - right
    if not right or not wrong:
        return None
    wins, below, place = 0.0, 0, 0
    while place < len(ranked):
        end = place
        while end < len(ranked) and ranked[end][0] == ranked[place][0]:
            end += 1
        rights = sum(is_right for _, is_right in ranked[place:end])
        wrongs = end - place - rights
        wins += rights * (below + wrongs / 2)
        below += wrongs
        place = end
    return wins / (right * wrong)


def calibration_error(margins: Sequence[float]) -> float:
    """Expected calibration error of σ(|margin|) as the chance to be right (Guo et al. 2017, arXiv 1706.04599)."""
    bins: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
    for margin in margins:
        sure = 1 / (1 + math.exp(-min(abs(margin), 700.0)))
        hit = 0.5 if margin == 0 else float(margin > 0)
        bins[min(BINS - 1, int((sure - 0.5) * 2 * BINS))].append((sure, hit))
    gaps = (abs(sum(sure for sure, _ in one) - sum(hit for _, hit in one)) for one in bins)
    return sum(gaps) / len(margins)


def agreement(first: Sequence[float | None], second: Sequence[float | None]) -> tuple[int, float | None]:
    """Pairs that both decide, and the share of them that they decide alike."""
    both = [(one, other) for one, other in zip(first, second, strict=True) if one and other]
    alike = sum((one > 0) == (other > 0) for one, other in both)
    return len(both), alike / len(both) if both else None
