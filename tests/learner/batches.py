"""Batches of plain numbers for the tests of the losses."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from learner.objectives import Batch, Rewarded
from learner.objectives.base import STATISTICS


def make_batch() -> Batch:
    """Δ = 1.0, -1.5, 0.4 (answers 0, 1, 2), and 0.6 of a mismatched one (3). Padding holds garbage on purpose."""
    policy = torch.tensor([[-1.0, -1.0], [-2.0, 99.0], [-0.6, -1.0], [-0.4, 77.0]], requires_grad=True)
    reference = torch.tensor([[-1.5, -1.5], [-0.5, -55.0], [-1.0, -1.0], [-1.0, 3.0]])
    return Batch(
        logprobs=policy,
        reference=reference,
        mask=torch.tensor([[True, True], [True, False], [True, True], [True, False]]),
        may_be_positive=torch.tensor([True, True, True, True]),
        chosen=torch.tensor([0, 2]),
        rejected=torch.tensor([1, 1]),
        pair_weights=torch.tensor([1.0, 0.25]),
        endorsed=torch.tensor([True, False]),
        unpaired=torch.tensor([0, 1]),
        desirable=torch.tensor([True, False]),
        unpaired_weights=torch.tensor([1.0, 2.0]),
        mismatched=torch.tensor([3]),
        pair_annotators=("ann", "rules"),
        unpaired_annotators=("ann", "bob"),
        statistics={name: torch.full((4, 2), 0.5) for name in STATISTICS},
    )


def random_batch(seed: int = 0, answers: int = 6, tokens: int = 5) -> Batch:
    """Answers of 1 to `tokens` tokens; each even one is preferred to the next, and the halves are two groups."""
    generator = torch.Generator().manual_seed(seed)

    def logprobs(scale: float = 1.0) -> Tensor:
        return -torch.rand(answers, tokens, generator=generator) * scale - 0.1

    lengths = torch.randint(1, tokens + 1, (answers,), generator=generator)
    mask = torch.arange(tokens)[None] < lengths[:, None]
    policy = logprobs(1.5)
    old = policy + torch.randn(answers, tokens, generator=generator) * 0.3
    mean_length = float(mask.sum() / answers)
    everyone = torch.arange(answers)
    return Batch(
        logprobs=policy.requires_grad_(),
        reference=logprobs(1.5),
        mask=mask,
        may_be_positive=torch.ones(answers, dtype=torch.bool),
        chosen=everyone[0::2],
        rejected=everyone[1::2],
        pair_weights=torch.ones(answers // 2),
        endorsed=torch.ones(answers // 2, dtype=torch.bool),
        unpaired=everyone,
        desirable=everyone % 2 == 0,
        unpaired_weights=torch.ones(answers),
        mismatched=torch.tensor([answers - 1, 0]),
        pair_annotators=("ann",) * (answers // 2),
        unpaired_annotators=("ann",) * answers,
        rewarded=Rewarded(
            answers=everyone,
            groups=everyone // (answers // 2),
            rewards=torch.randn(answers, generator=generator),
            weights=torch.ones(answers),
            sampled=old + torch.randn(answers, tokens, generator=generator) * 0.3,
            step_length=mean_length,
            round_length=mean_length,
        ),
        references={"previous": old, "base": logprobs(1.5)},
        statistics={name: torch.rand(answers, tokens, generator=generator) for name in STATISTICS},
    )


def gradient(loss: Tensor, batch: Batch) -> Tensor:
    """∂ loss / ∂ log-probabilities, (A, T)."""
    (found,) = torch.autograd.grad(loss, batch.logprobs)
    return found


def with_length(batch: Batch, tokens: int) -> Batch:
    """The same numbers, every answer `tokens` long."""
    return replace(batch, mask=(torch.arange(batch.mask.shape[1]) < tokens).expand_as(batch.mask))
