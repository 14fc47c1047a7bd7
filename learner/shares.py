"""How much of a round one person may fill: a bound against poisoning. Pure.

Nobody's examples make more than `share` of all that people said, once everybody is held to the same number. Few people
can teach as well: nobody is held below an equal part, nor below `floor` examples. The newest stay. What rules and
scorers say belongs to the operator and is not counted. Whoever can appear as many annotators is not held by this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from learner.examples import Example


def most_each(counts: Collection[int], share: float, floor: int) -> int:
    """How many examples of one annotator may stay: the most that keeps everyone within the share of what then stays."""
    if not counts:
        return floor
    share = max(share, 1 / len(counts))
    most = max(counts)
    while (allowed := max(floor, int(share * sum(min(count, most) for count in counts) + 1e-9))) < most:
        most = allowed
    return most


def bounded(examples: Sequence[Example], share: float, floor: int) -> list[Example]:
    """The examples (oldest first) with the oldest of whoever said too much left out; bounding twice changes nothing."""
    counts = Counter(annotator for example in examples for annotator in _people(example))
    most = most_each(counts.values(), share, floor)
    left = Counter(dict.fromkeys(counts, most))
    kept = (_within(example, left) for example in reversed(examples))
    return [example for example in kept if example is not None][::-1]


def _people(example: Example) -> list[str]:
    """Who said each thing that people said."""
    return [pair.annotator for pair in example.pairs if pair.is_endorsed] + [
        one.annotator for one in example.unpaired if one.is_given
    ]


def _within(example: Example, left: Counter[str]) -> Example | None:
    """The example without what its annotators have nothing left for; takes from `left` what stays."""

    def may_stay(annotator: str) -> bool:
        left[annotator] -= 1
        return left[annotator] >= 0

    pairs = [pair for pair in example.pairs if not pair.is_endorsed or may_stay(pair.annotator)]
    unpaired = [thumb for thumb in example.unpaired if not thumb.is_given or may_stay(thumb.annotator)]
    return example if len(pairs) + len(unpaired) == example.count else example.reduced(pairs, unpaired)
