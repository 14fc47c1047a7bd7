"""How far each of several texts agrees with the others, in time linear in their length. Pure, for any language.

A text is taken as its character pairs and fours (after chrF, Popović 2015: pairs are about a word in Chinese or
Japanese, fours a stem elsewhere), each with its number of occurrences. A text's agreement is the number of grams that
it shares with another one, as a share of those that both have (Dice's coefficient), with numerator and denominator as
means over all others. Means need no comparison of each with each: how many texts hold a gram is counted once
(reference aggregation, Vamvas and Sennrich 2024).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

ORDERS: Final = (2, 4)
COMPARED_CHARS: Final = 16_000
"""Of all texts together, an equal part of each from its beginning: the choice must not hold up the event loop."""

Gram = str | tuple[str, int]
"""A gram's first occurrence, or (gram, its which occurrence)."""


def agreement(texts: Sequence[str]) -> list[float]:
    """One value of [0, 1] for each text: 1 where all say the same, 0 where it shares nothing with any other."""
    others = len(texts) - 1
    if not others:
        return [1.0]
    grams = [_grams(text, COMPARED_CHARS // len(texts)) for text in texts]
    holders: Counter[Gram] = Counter()
    for own in grams:
        holders.update(own)
    size = sum(map(len, grams))
    return [
        2 * (sum(map(holders.__getitem__, own)) - len(own)) / (len(own) * others + size - len(own)) for own in grams
    ]


def _grams(text: str, compared: int) -> set[Gram]:
    """A multiset as a set. Never empty: a text has a beginning and an end."""
    padded = f" {' '.join(text.lower().split())[:compared]} "
    counts = Counter(
        padded[start : start + order] for order in ORDERS for start in range(max(1, len(padded) - order + 1))
    )
    again = ((gram, number) for gram, count in counts.items() for number in range(2, count + 1))
    return {*counts, *again}
