"""Early stop: of a round's epochs, that is kept which does best on groups that the round does not learn from.

Prechelt 1998, https://doi.org/10.1007/3-540-49430-8_3, with a patience. Measured is the mean of 1 − σ of the implicit
reward that each label gets (`Standing.loss`). It is bounded, as people's labels are wrong now and then: −log σ would
call a policy that is right more often, and surer, worse for the few that it then firmly contradicts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from learner.examples import Example
from learner.files import write_atomic
from learner.settings import Settings
from learner.state import Standing

MIN_EXAMPLES: Final = 20
"""Fewer say too little: then the round learns from all, and runs to its end."""
MAX_SHARE: Final = 0.5
"""More are never kept back: where everybody asks the same, that is learned."""
FILE: Final = "best.safetensors"


def kept_back(examples: Collection[Example], settings: Settings) -> set[str]:
    """The groups to measure by, about `validation_share` of all; the same prompt is always on the same side."""
    if settings.epochs == 1:
        return set()  # there is nothing to choose between
    held = [example for example in examples if example.lot < settings.validation_share]
    opinions = sum(len(one.pairs) + len(one.unpaired) + bool(one.rewarded) for one in held)
    serves = opinions >= MIN_EXAMPLES and len(held) <= MAX_SHARE * len(examples)
    return {example.group for example in held} if serves else set()


class BestEpoch:
    """Keeps the parameters of the best epoch in a file of `directory`. `standings` are those of the epochs so far."""

    def __init__(self, directory: Path, parameters: Mapping[str, Tensor], patience: int) -> None:
        self._file = directory / FILE
        self._parameters = parameters
        self._patience = patience

    def note(self, standings: list[Standing]) -> bool:
        """After an epoch; True when the next would be one too many."""
        # Of an epoch after which nobody was left to measure by, nothing good is known.
        losses = [one.loss if one.examples and math.isfinite(one.loss) else math.inf for one in standings]
        best = losses.index(min(losses))
        if best == len(losses) - 1:
            tensors = {name: value.detach().cpu().contiguous() for name, value in self._parameters.items()}
            write_atomic(self._file, save(tensors))
        return len(losses) - 1 - best >= self._patience

    @torch.no_grad()
    def restore(self) -> None:
        for name, value in load_file(self._file).items():
            self._parameters[name].copy_(value)
