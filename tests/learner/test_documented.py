"""The page about objectives names all there is."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from learner.augmentation import AUGMENTATIONS
from learner.objectives.policy_gradient.advantages import ADVANTAGES
from learner.objectives.policy_gradient.base import PolicyGradient
from learner.objectives.policy_gradient.filtration import FILTRATIONS
from learner.views import RETRIEVE
from learner.weighting import WEIGHTINGS
from server.wire.learner import Curriculum, LearnerSettings, Reference

PAGE = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text()
NAMES = [
    *WEIGHTINGS,
    *AUGMENTATIONS,
    RETRIEVE,
    *ADVANTAGES,
    *FILTRATIONS,
    *get_args(Reference),
    *get_args(Curriculum),
]
"""Objectives are in the registry's own tables: `tests/docs/test_methods.py`."""


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_on_the_page(name: str) -> None:
    """As one writes it in the configuration."""
    assert f"`{name}`" in PAGE


def test_what_all_policy_gradients_take_is_on_the_page() -> None:
    """Each has them; they are told once."""
    shared = {*PolicyGradient.model_fields, "epsilon_high", "delta"}
    assert [option for option in shared if f"`{option}`" not in PAGE and f"`{option} = " not in PAGE] == []


def test_the_settings_that_compose_a_method_are_on_the_page() -> None:
    """Those of the server's configuration."""
    axes = {"objectives", "options", "beta", "weighting", "reference", "ema_decay", "source_weights"}
    axes |= {"half_life_signals"}
    rewards = {
        "max_staleness",
        "success_below",
        "max_rewarded_groups",
        "max_replay_groups",
        "max_kl",
        "rank_rewards",
        "unpair",
    }
    gradients = {"normalized_gradients", "entanglement_every"}
    data = {"token_mask", "separators", "self_inject", "curriculum", "dropout", "dropout_passes"}
    named = axes | rewards | gradients | data
    assert named <= LearnerSettings.model_fields.keys()
    assert all(f"`{name}`" in PAGE or f"{name} = " in PAGE for name in named - {"options"})
