"""How often people say that one answer is better than another, from the pairs of a batch."""

from __future__ import annotations

from torch import Tensor

from learner.objectives.base import Batch


def agreement(batch: Batch, prior: float) -> Tensor:
    """Share of the opinions about the same two answers that agree with each pair, (N,), in (0, 1).

    (wins + `prior`) / (wins + losses + 2 `prior`): each side begins with so many opinions, so that a few people are
    never sure. All opinions about a prompt's answers are in one batch, however the step is cut.
    """
    wins = (batch.chosen[:, None] == batch.chosen) & (batch.rejected[:, None] == batch.rejected)
    losses = (batch.chosen[:, None] == batch.rejected) & (batch.rejected[:, None] == batch.chosen)
    agree, disagree = wins.sum(-1), losses.sum(-1)
    return ((agree + prior) / (agree + disagree + 2 * prior)).to(batch.logprobs.dtype)
