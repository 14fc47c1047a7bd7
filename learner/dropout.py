"""Passes with dropout on the adapter, from which a weighting sees how sure the policy is of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.model import Policy
from learner.prefix import PrefixModel, Row, padded


@dataclass(frozen=True, slots=True)
class Dropout:
    policy: Policy
    engine: PrefixModel
    passes: int
    rate: float

    @torch.no_grad()
    def logprobs(self, rows: Sequence[Row], seed: str) -> Tensor:
        """(passes, answers, T); the same for the same seed. A prompt is dropped alike for all its answers."""
        found = []
        for number in range(self.passes):
            with self.policy.dropout(self.rate, f"{seed} {number}"):
                found.append(padded(self.engine.logprobs(rows))[0])
        return torch.stack(found)
