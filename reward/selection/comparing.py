"""What is shown beside the winner: further choices, or the one candidate that it is best compared with. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from reward.types import Judgement

WORD: Final = re.compile(r"\w+")
EMPTY_WORDS: Final = frozenset(
    # function words, then what people say about looking rather than about what they see
    WORD.findall(
        """
        a all also an and are as at be but by can could do does for from has have he her his i in is it its may my of
        on or our she so some such than that the their them then there these they this those to too was we were will
        with would you your
        contain contains everything image images photo picture pictures see seen show shown shows visible
        """
    )
)
"""English words that carry no content; in other languages every word counts alike."""


def ranked(judgements: Sequence[Judgement], first: int, count: int) -> tuple[int, ...]:
    """`first`, then further feasible candidates by falling total, at most `count` in all."""
    others = sorted(
        (index for index, judgement in enumerate(judgements) if judgement.is_feasible and index != first),
        key=lambda index: (judgements[index].total is None, -_total(judgements[index]), index),
    )
    return (first, *others[: count - 1])


def rival(judgements: Sequence[Judgement], winner: int, *, of_content: bool = False) -> int | None:
    """The feasible candidate that is the best one to compare with the winner: the nearest one that says something else.

    Nearest by the words used, counted and without their order, and by content words first: a pair that differs in one
    thing that is said shows what a choice was about. Where all say the same, people judge style and length, and the
    one in the most different words is taken: of nearly the same words nobody prefers one. None when no candidate uses
    other words (or, `of_content`, says other things): there is nothing to choose.
    """
    words = _words(judgements[winner])
    apart: dict[int, tuple[bool, int, int]] = {}
    for index, judgement in enumerate(judgements):
        if judgement.is_feasible and index != winner:
            others = _words(judgement)
            content = _difference(_content(words), _content(others))
            wording = _difference(words, others)
            apart[index] = (content == 0, content, wording if content else -wording)
    different = [index for index, (_, content, wording) in apart.items() if (content if of_content else wording) != 0]
    return min(different, key=lambda index: (*apart[index], index)) if different else None


def margin(judgements: Sequence[Judgement], winner: int, other: int) -> float:
    """|r_winner − r_other|. Active Preference Learning's certainty, Muldrew et al. 2024, https://arxiv.org/abs/2402.08114.

    In the totals' units; 0 where one of them has no total.
    """
    one, against = judgements[winner].total, judgements[other].total
    return 0.0 if one is None or against is None else abs(one - against)


def entropy(judgements: Sequence[Judgement]) -> float:
    """−Σ pᵢ ln pᵢ / ln N, p = softmax(r). Predictive entropy, Muldrew et al. 2024, https://arxiv.org/abs/2402.08114.

    Of the feasible candidates, as a share of what it is when all are alike: 0 decided, 1 not.
    """
    totals = [one.total for one in judgements if one.is_feasible and one.total is not None]
    if len(totals) < 2:
        return 1.0
    weights = [math.exp(total - max(totals)) for total in totals]
    shares = [weight / math.fsum(weights) for weight in weights]
    return -math.fsum(share * math.log(share) for share in shares if share) / math.log(len(totals))


def _words(judgement: Judgement) -> Counter[str]:
    return Counter(WORD.findall(judgement.candidate.text.lower()))


def _content(words: Counter[str]) -> Counter[str]:
    return Counter({word: count for word, count in words.items() if word not in EMPTY_WORDS})


def _difference(one: Counter[str], other: Counter[str]) -> int:
    return ((one - other) + (other - one)).total()


def _total(judgement: Judgement) -> float:
    return judgement.total if judgement.total is not None else 0.0
