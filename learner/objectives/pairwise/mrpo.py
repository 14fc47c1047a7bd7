"""MRPO: DPO against two references in one. Le et al. 2024, https://arxiv.org/abs/2405.16388.

1. The virtual reference is the weighted harmonic mean of both probabilities, 1/p = α/p_2 + (1−α)/p_1. p_2 is the main
   reference, p_1 the policy at the round's beginning; where they are the same, it is DPO.
2. p_1 may not be far from p_2: its log-probability is kept within 1 ± `clip` of p_2's. As in the authors' code the
   bound is shared out between chosen and rejected answers by their mean log-probabilities.
3. α is the share of p_1 in what both tell the two answers apart, |a_1|/(|a_1| + |a_2|), where a is log p(y_w)/p(y_l).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit, Needs


class Mrpo(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS
    references: ClassVar[tuple[str, ...]] = ("previous",)
    clip: float = Field(0.1, ge=0, lt=1)
    """η: how far the second reference may be from the main one, relative to its log-probability."""
    alpha: float | None = Field(None, gt=0, lt=1)
    """α; None: by each pair, as above."""

    def losses(self, batch: Batch) -> Tensor:
        """−log σ(β h) with log p_ref = log p_1 + log p_2 − log(α p_1 + (1−α) p_2)."""
        policy = batch.totals(batch.logprobs)
        second, main = batch.totals(batch.references["previous"]), batch.totals(batch.reference)
        pair = torch.stack([batch.chosen, batch.rejected])  # (2, N)
        second, main = second[pair], main[pair]
        size = ((second + main) / 2).abs()
        reach = self.clip * size / size.sum(0).clamp(min=1e-6) * main.abs()
        alpha = self._share(second, main)
        second = torch.minimum(torch.maximum(second, main - reach), main + reach)
        mixed = torch.logaddexp(alpha.log() + second, (1 - alpha).log() + main)
        delta = policy[pair] - (second + main - mixed)
        return -logsigmoid(self.beta * (delta[0] - delta[1]))

    def _share(self, second: Tensor, main: Tensor) -> Tensor:
        """α of every pair, (N,)."""
        if self.alpha is not None:
            return second.new_full(second.shape[1:], self.alpha)
        apart = [(one[0] - one[1]).abs() for one in (second, main)]
        return apart[0] / (apart[0] + apart[1] + 1e-6)
