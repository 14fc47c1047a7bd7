"""Which rewarded groups have something to teach, and success replay for those that failed as a whole. Pure.

A group whose rewards are all alike has no gradient. Where such a group, or one that is nearly so, is also poor, the
best stored answer to the same question takes the place of its worst one (ARPO, https://arxiv.org/abs/2505.16282): its
logged log-probabilities go with it, so it is one more off-policy answer. What rewards are worth is the operator's
scale, so that happens only where a bound is set.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from learner.examples import Answer, Example, RewardedExample

LARGEST_SPREAD: Final = 0.05
"""Standard deviation of a group that failed, or succeeded, as a whole."""

Question = tuple[tuple[int, ...], tuple[str, ...]]
Success = tuple[float, str, Answer]
"""(reward, group, answer)."""


def with_contrast(examples: Sequence[Example], below: float | None) -> tuple[list[Example], int]:
    """The examples that are left, and how many groups lost rewards that were all alike.

    `below`: rewarded groups with a smaller mean get a success, if there is one; None: none does.
    """
    successes = _successes(examples) if below is not None else {}
    kept: list[Example] = []
    alike = 0
    for one in examples:
        failed = below is not None and _has_failed(one, below)
        example: Example | None = _helped(one, successes[one.prompt, one.images]) if failed else one
        if example is not None and example.rewarded and len({label.reward for label in example.rewarded}) < 2:
            alike += 1
            example = replace(example, rewarded=()).reduced(example.pairs, example.unpaired)
        if example is not None:
            kept.append(example)
    return kept, alike


def _successes(examples: Sequence[Example]) -> dict[Question, Success]:
    """The best rewarded answer to each question; of equals the one of the oldest group."""
    best: dict[Question, Success] = {}
    for example in examples:
        for one in (label for label in example.rewarded if not label.is_ranked):
            question = (example.prompt, example.images)
            if question not in best or one.reward > best[question][0]:
                best[question] = (one.reward, example.group, example.answers[one.answer])
    return best


def _has_failed(example: Example, below: float) -> bool:
    rewards = [one.reward for one in example.rewarded if not one.is_ranked]
    return len(rewards) > 1 and statistics.stdev(rewards) < LARGEST_SPREAD and statistics.mean(rewards) < below


def _helped(example: Example, success: Success) -> Example:
    """With the success in its worst answer's place; as it was where it has none as poor as that."""
    reward, group, answer = success
    worst = min(example.rewarded, key=lambda one: one.reward)
    if group == example.group or reward <= max(one.reward for one in example.rewarded):
        return example
    borrowed = replace(answer, owner=answer.owner or group)
    placed = RewardedExample(len(example.answers), reward, worst.weight)
    others = tuple(one for one in example.rewarded if one is not worst)
    if worst.is_baseline:
        others = (replace(others[0], is_baseline=True), *others[1:])
    helped = replace(example, answers=(*example.answers, borrowed), rewarded=(*others, placed))
    return helped.reduced(helped.pairs, helped.unpaired) or helped
