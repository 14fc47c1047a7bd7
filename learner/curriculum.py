"""In which order a round learns: `easy_then_hard` of groups, `perturbation` of changed images. Pure.

Easy first, Bengio et al. 2009, https://doi.org/10.1145/1553374.1553380, by how clearly the reward, or else the model's
own likelihood, speaks for the preferred answer, as MPO splits easy pairs from hard ones (Gou and Nguyen 2024,
https://arxiv.org/abs/2403.19443): a pair that it speaks against is the hardest. TEMPLE (Li et al. 2025,
https://arxiv.org/abs/2503.16929) raises the difficulty of perturbed inputs: what hides most of the image is told from
it most easily, so changes are strongest at first and weaker with each quarter of the round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from learner.augmentation import LEVELS
from learner.examples import Answer, Example

UNKNOWN: Final = 0.5
"""Place of a group that nothing is known of: in the middle."""


def easy_first(examples: Sequence[Example]) -> list[str]:
    """The groups, the easiest first. Gaps of rewards and of likelihoods have no common scale, and are ranked apart."""
    places = _places({one.group: gap for one in examples if (gap := _likelihood_gap(one)) is not None})
    places |= _places({one.group: gap for one in examples if (gap := _reward_gap(one)) is not None})
    return sorted((one.group for one in examples), key=lambda group: (-places.get(group, UNKNOWN), group))


def level(step: int, steps: int) -> int:
    """How much weaker than at first images are changed in a step. TEMPLE, Li et al. 2025, https://arxiv.org/abs/2503.16929.

    0 to `LEVELS` − 1, each for an equal part.
    """
    return step * LEVELS // max(1, steps)


def _places(gaps: dict[str, float]) -> dict[str, float]:
    """By group the share of the others with a smaller gap, in [0, 1]."""
    ordered = sorted(gaps, key=lambda group: (gaps[group], group))
    return {group: place / max(1, len(ordered) - 1) for place, group in enumerate(ordered)}


def _reward_gap(example: Example) -> float | None:
    """Of the preferred answer to the other one, mean over the pairs; of a rewarded group without, best to worst."""
    totals = [answer.total for answer in example.answers]
    known = [(totals[pair.chosen], totals[pair.rejected]) for pair in example.pairs]
    gaps = [chosen - rejected for chosen, rejected in known if chosen is not None and rejected is not None]
    if gaps:
        return sum(gaps) / len(gaps)
    rewards = [one.reward for one in example.rewarded]
    return max(rewards) - min(rewards) if rewards and not example.pairs else None


def _likelihood_gap(example: Example) -> float | None:
    """Of log-probabilities per token as the engine logged them."""
    gaps = [
        _mean(example.answers[pair.chosen]) - _mean(example.answers[pair.rejected])
        for pair in example.pairs
        if example.answers[pair.chosen].logprobs and example.answers[pair.rejected].logprobs
    ]
    return sum(gaps) / len(gaps) if gaps else None


def _mean(answer: Answer) -> float:
    return sum(answer.logprobs) / len(answer.logprobs)
