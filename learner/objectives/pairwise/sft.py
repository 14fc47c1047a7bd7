"""Negative log-likelihood of the chosen answer; beside `sigmoid` it makes RPO, and its weight is RPO's α.

Pang et al. 2024, https://arxiv.org/abs/2404.19733, eq. 1.

It keeps the chosen answers likely, where DPO alone may push both answers of a pair down.

1. It applies where a person preferred the chosen answer. The clean side of a safety pair is merely not unsafe,
   and nobody said that it is worth imitating.
2. Per-token mean of each answer, then the mean over answers, so that long answers do not outweigh short ones.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from learner.objectives.base import Batch, Needs, Objective


class Sft(Objective):
    needs: ClassVar[Needs] = Needs.PAIRS

    def losses(self, batch: Batch) -> Tensor:
        """−log π_θ(y_w|x) / |y_w|, and 0 for pairs that no person chose."""
        return -batch.mean_logprobs[batch.chosen] * batch.endorsed
