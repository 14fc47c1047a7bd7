"""The canary's verdict."""

from __future__ import annotations

import random

from server.adapters.canary.trial import Rated, Trial, Verdict
from server.config import RolloutConfig


def test_one_user_counts_once() -> None:
    """However often one person says it, it is one person's opinion."""
    trial = Trial(1, RolloutConfig(), 0.2)
    rng = random.Random(1)
    for number in range(5000):
        is_canary = rng.random() < 0.2
        trial.rated(Rated("one" if is_canary else f"user{number}", is_canary, 0.0, -1.0 if is_canary else 1.0))
    assert trial.verdict is Verdict.RUNNING
    assert trial.summary()["metrics"]["thumbs"]["canary_users"] == 1
