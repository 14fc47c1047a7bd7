"""`sft_share`: a round's first steps imitate what people found good; a killed one goes on where it was."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from learner.errors import SettingsError
from learner.imitation import imitation
from learner.settings import Settings, read_settings
from learner.trainer import Trainer
from learner.weighting import Reliabilities
from server.wire.training import TrainingConfig
from tests.learner.batches import make_batch
from tests.learner.test_trainer import EXAMPLE, OneWeight, Told

CONFIGURED = 5.0
"""The loss that the configured objectives would give, before the weight moves."""
IMITATING = (1.0 + 1.0) / 3
"""−log π/|y| of the one chosen answer that a person preferred, and of the one with a thumb up, by three examples."""


@dataclass
class Small(OneWeight):
    """With what a checkpoint asks for."""

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """No moving average."""


def trainer(share: float, steps: int = 10) -> Trainer:
    model: Any = Small()
    recipe: Any = Told(model.weight, repeat((CONFIGURED, 0.9)))
    return Trainer(model, model, Settings(sft_share=share), steps, recipe=recipe, references=model)


def losses(one: Trainer, steps: int) -> list[float]:
    return [one.step([THREE])["loss"] for _ in range(steps)]


@dataclass(frozen=True)
class Three:
    """As many examples as the batch has that the fake collator makes of it."""

    count: int = 3

    def __getattr__(self, name: str) -> Any:
        return getattr(EXAMPLE, name)


THREE: Any = Three()


@pytest.mark.parametrize(("share", "imitating"), [(0.0, 0), (0.3, 3), (0.9, 9)])
def test_the_first_steps_imitate(share: float, imitating: int) -> None:
    """So many of the schedule; from then on the configured objectives alone."""
    found = losses(trainer(share), 10)
    assert found[:imitating] == pytest.approx([IMITATING] * imitating)
    assert found[imitating:] == pytest.approx([CONFIGURED] * (10 - imitating), rel=0.02)


def test_a_resumed_round_imitates_as_long_as_an_uninterrupted_one(tmp_path: Path) -> None:
    """Killed within the imitation, and behind it."""
    first = trainer(0.3)
    assert losses(first, 2) == pytest.approx([IMITATING] * 2)
    first.save(tmp_path)
    second = trainer(0.3)
    assert second.restore(tmp_path)
    assert losses(second, 2) == pytest.approx([IMITATING, CONFIGURED], rel=0.02)
    second.save(tmp_path)
    third = trainer(0.3)
    assert third.restore(tmp_path)
    assert losses(third, 6) == pytest.approx([CONFIGURED] * 6, rel=0.02)


def test_imitation_is_of_what_people_found_good_alone() -> None:
    """Not of what is rejected, of thumbs down, or of what only rules preferred; labels are believed as they are."""
    batch, heard = make_batch(), Reliabilities()
    loss = imitation(0.1).loss(batch, heard, 3)
    assert loss.item() == pytest.approx(IMITATING)
    loss.backward()
    gradient = batch.logprobs.grad
    assert gradient is not None
    assert gradient[0].tolist() == pytest.approx([-1 / 3, -1 / 3])  # chosen by a person, and liked: twice −1/|y|/3
    assert torch.count_nonzero(gradient[1:]) == 0
    assert not heard.seen


def test_objectives_without_people_cannot_begin_with_imitation() -> None:
    """Refused with what is missing; and it is off by default."""
    config = TrainingConfig.model_construct(learner={"objectives": {"grpo": 1.0}, "sft_share": 0.1}, max_lora_rank=16)
    with pytest.raises(SettingsError, match="sft_share: none of the objectives is on pairs or thumbs"):
        read_settings(config)
    assert Settings().sft_share == 0.0
