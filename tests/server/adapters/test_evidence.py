"""The anytime-valid test of harm."""

from __future__ import annotations

import random

from server.adapters.evidence import EProcess, Trial, Verdict


def run(canary_rate: float, active_rate: float, *, seed: int, requests: int, share: float = 0.2) -> tuple[Verdict, int]:
    """The first verdict that is not `running`, and how many canary answers it took."""
    rng = random.Random(seed)
    trial = Trial(1, margin=0.02, alpha=0.01, enough=requests)
    while trial.verdict is Verdict.RUNNING:
        is_canary = rng.random() < share
        trial.add(is_canary=is_canary, is_harm=rng.random() < (canary_rate if is_canary else active_rate))
    return trial.verdict, trial.canary


def test_an_equal_canary_is_hardly_ever_ended() -> None:
    """Looked at after every answer, an equal adapter is called harmful in at most alpha of the runs."""
    ended = sum(run(0.05, 0.05, seed=seed, requests=500)[0] is Verdict.HARMFUL for seed in range(400))
    assert ended <= 8


def test_a_canary_within_the_margin_is_hardly_ever_ended() -> None:
    """Two points more harm, where two are allowed: still at most alpha."""
    ended = sum(run(0.05, 0.03, seed=seed, requests=500)[0] is Verdict.HARMFUL for seed in range(400))
    assert ended <= 8


def test_harm_is_found_and_found_early() -> None:
    """A canary that fails half of its answers is ended within a few dozen of them; one at 15 points within the run."""
    blunt = [run(0.5, 0.01, seed=seed, requests=500) for seed in range(50)]
    assert all(verdict is Verdict.HARMFUL for verdict, _ in blunt)
    assert sorted(count for _, count in blunt)[25] < 40
    subtle = [run(0.2, 0.05, seed=seed, requests=500)[0] for seed in range(50)]
    assert subtle.count(Verdict.HARMFUL) >= 45


def test_without_a_counterpart_there_is_no_bet() -> None:
    """At a share of one nobody is left to compare with: the run expires, and claims nothing."""
    process = EProcess(0.02)
    for _ in range(1000):
        process.add(1.0, is_canary=True)
    assert process.value == 1.0


def test_capital_stays_a_number() -> None:
    """Evidence without end neither overflows nor hides the verdict."""
    trial = Trial(1, margin=0.02, alpha=0.01, enough=10)
    for _ in range(20_000):
        trial.add(is_canary=True, is_harm=True)
        trial.add(is_canary=False, is_harm=False)
    assert trial.verdict is Verdict.HARMFUL
    assert trial.summary()["canary_harms"] == 20_000
