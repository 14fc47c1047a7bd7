"""Comparisons as thumbs, for the objectives on single answers (`unpair`). Pure.

What a person put above others is good and what they put below is bad, as TRL and HALOs make such data of pairs. By
each person an answer has one opinion at most: by the share of the comparisons that it won, with a weight that is less
the nearer that share is to one half, and none at one half; a thumb that the same person gave to it stands instead. The
pairs themselves stay, for the objectives on pairs and for measuring.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from learner.examples import COMPARISONS, Example, UnpairedExample


def unpaired(example: Example, *, keep_others: bool) -> Example | None:
    """The example with its people's comparisons as thumbs too, anew if it had such before; None: nothing is left.

    `keep_others`: whether pairs that are no comparison by a person, a rule's for example, stay.
    """
    pairs = [pair for pair in example.pairs if keep_others or pair.source in COMPARISONS]
    given = tuple(one for one in example.unpaired if one.is_given)
    said = {(one.answer, one.annotator) for one in given}
    made = (one for one in _thumbs(example) if (one.answer, one.annotator) not in said)
    return example.reduced(pairs, (*given, *made))


def _thumbs(example: Example) -> Iterator[UnpairedExample]:
    won: dict[tuple[int, str], list[float]] = defaultdict(list)
    for pair in example.pairs:
        if pair.source in COMPARISONS:
            won[pair.chosen, pair.annotator].append(pair.weight)
            won[pair.rejected, pair.annotator].append(-pair.weight)
    for (answer, annotator), weights in won.items():
        balance = sum(weights) / len(weights)
        if balance:
            yield UnpairedExample(answer, balance > 0, abs(balance), annotator, is_given=False)
