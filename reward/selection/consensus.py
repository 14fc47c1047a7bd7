"""How far each of several texts agrees with the others, in time linear in their length. Pure, for any language.

A text is taken as its character pairs and fours (after chrF, Popović 2015: pairs are about a word in Chinese or
Japanese, fours a stem elsewhere), each with its number of occurrences. Of each text the mean share of its own grams
that another text has too (precision), and the mean share of another's grams that it has (recall), are joined as their
harmonic mean. Means over all others need no comparison of each with each: how often a gram occurs in all texts is
counted once (reference aggregation, Vamvas and Sennrich 2024).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

ORDERS: Final = (2, 4)
COMPARED_CHARS: Final = 2000
"""What lies behind is not compared: the choice must not hold up the event loop."""


def agreement(texts: Sequence[str]) -> list[float]:
    """One value of [0, 1] for each text: 1 where all say the same, 0 where it shares nothing with any other."""
    if len(texts) == 1:
        return [1.0]
    grams = [_grams(text) for text in texts]
    holders: defaultdict[tuple[str, int], int] = defaultdict(int)
    shares: defaultdict[tuple[str, int], float] = defaultdict(float)
    for own in grams:
        for gram in own:
            holders[gram] += 1
            shares[gram] += 1 / len(own)
    others = len(texts) - 1
    found = []
    for own in grams:
        precision = sum(holders[gram] - 1 for gram in own) / (len(own) * others)
        recall = sum(shares[gram] - 1 / len(own) for gram in own) / others
        found.append(max(0.0, 2 * precision * recall / (precision + recall)) if precision else 0.0)
    return found


def _grams(text: str) -> set[tuple[str, int]]:
    """(gram, its which occurrence): a multiset as a set. Never empty: a text has a beginning and an end."""
    padded = f" {' '.join(text.lower().split())[:COMPARED_CHARS]} "
    seen: defaultdict[str, int] = defaultdict(int)
    grams = set()
    for order in ORDERS:
        for start in range(max(1, len(padded) - order + 1)):
            gram = padded[start : start + order]
            seen[gram] += 1
            grams.add((gram, seen[gram]))
    return grams
