"""The page about objectives names all there is."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from learner.augmentation import AUGMENTATIONS
from learner.objectives import OBJECTIVES
from learner.objectives.advantages import ADVANTAGES
from learner.settings import Reference
from learner.weighting import WEIGHTINGS
from server.config import LearnerConfig

PAGE = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text()


@pytest.mark.parametrize("name", [*OBJECTIVES, *WEIGHTINGS, *AUGMENTATIONS, *ADVANTAGES, *get_args(Reference)])
def test_every_name_is_on_the_page(name: str) -> None:
    """As one writes it in the configuration."""
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_every_option_of_an_objective_is_on_the_page(name: str) -> None:
    """In its row, or among those that all policy gradients share."""
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}`"))
    shared = {"advantage", "kl", "tis", "sequence_mask", "importance_sampling_level", "epsilon_high", "delta"}
    assert all(f"`{option}`" in row for option in OBJECTIVES[name].model_fields.keys() - shared)


def test_the_settings_that_compose_a_method_are_on_the_page() -> None:
    """Those of the server's configuration."""
    axes = {"objectives", "options", "beta", "weighting", "reference", "ema_decay", "source_weights"}
    axes |= {"half_life_signals"}
    rewards = {"max_staleness", "success_below", "max_rewarded_groups", "max_replay_groups", "max_kl"}
    assert axes | rewards <= LearnerConfig.model_fields.keys()
    assert all(f"`{name}`" in PAGE or f"{name} = " in PAGE for name in (axes | rewards) - {"options"})
