"""DPO. Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, eq. 7."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Options


def sigmoid(batch: Batch, options: Options) -> Tensor:
    """−log σ(β h)."""
    return -logsigmoid(options.beta * batch.margin)
