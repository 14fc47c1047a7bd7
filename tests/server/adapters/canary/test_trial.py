"""The canary's verdict. The rates are held by `benchmarks/canary.py`; here they are coarse."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from server.adapters.canary.trial import Trial, Verdict
from server.config import RolloutConfig
from server.store.records import Answered, Rated

ANSWER = Answered("user", False, 0.0, False, False, None, None)


def stream(
    seed: int,
    *,
    users: int = 2000,
    requests: int = 10_000,
    share: float = 0.2,
    shift: float = 0.0,
    blocked: float = 1.0,
    failed: float = 1.0,
    rewarded: float = 0.0,
    slower: float = 1.0,
    sticky: bool = True,
) -> Iterator[Answered | Rated]:
    """Users of different tastes and activity; one thumb to four answers. The last four are the canary's faults."""
    rng = random.Random(seed)
    activity = [rng.paretovariate(1.16) for _ in range(users)]
    canary = [rng.random() < share for _ in range(users)]
    taste = [rng.betavariate(2.8, 1.2) for _ in range(users)]
    for number, user in enumerate(rng.choices(range(users), activity, k=requests)):
        is_canary = canary[user]
        unit = f"user{user}" if sticky else f"request{number}"
        yield Answered(
            unit,
            is_canary,
            float(number),
            rng.random() < 0.002 * (blocked if is_canary else 1),
            rng.random() < 0.005 * (failed if is_canary else 1),
            rng.gauss(0, 1) + rewarded * is_canary,
            rng.lognormvariate(0, 0.5) * (slower if is_canary else 1),
        )
        if rng.random() < 0.25:
            is_up = rng.random() < taste[user] + shift * is_canary
            yield Rated(unit, is_canary, float(number), 1.0 if is_up else -1.0)


def feed(trial: Trial, events: Iterator[Answered | Rated]) -> Verdict:
    """To the first decision."""
    for one in events:
        if isinstance(one, Rated):
            trial.rated(one)
        else:
            trial.answered(one)
        if trial.verdict is not Verdict.RUNNING:
            break
    return trial.verdict


def verdicts(count: int, *, rollout: dict[str, Any] | None = None, **world: Any) -> list[Verdict]:
    settings = RolloutConfig(**{"canary_requests": 100_000, **(rollout or {})})
    return [feed(Trial(1, settings, 0.2), stream(seed, **world)) for seed in range(count)]


def test_an_equal_canary_is_hardly_ever_rolled_back() -> None:
    """Whatever the users' tastes and activity, in all five metrics together."""
    assert verdicts(15).count(Verdict.HARMFUL) <= 1


def test_a_better_canary_is_promising() -> None:
    """15 points more."""
    assert verdicts(5, shift=0.15, users=20_000).count(Verdict.PROMISING) >= 4


def test_a_bad_canary_is_rolled_back_and_not_promoted() -> None:
    """15 points less, with users enough."""
    found = verdicts(5, shift=-0.15, users=20_000, requests=20_000)
    assert found.count(Verdict.HARMFUL) >= 4
    assert Verdict.PROMISING not in found


@pytest.mark.parametrize(
    "fault", [{"blocked": 10}, {"failed": 5}, {"rewarded": -0.6}, {"slower": 2.0}], ids=lambda fault: next(iter(fault))
)
def test_each_fault_is_seen_within_ten_thousand_requests(fault: dict[str, float]) -> None:
    """Ten times the blocked answers, five times the failed ones, a reward that drops, twice the time."""
    never = {"promote_on": ()}
    assert verdicts(10, rollout=never, users=20_000, **fault).count(Verdict.HARMFUL) >= 8


def test_a_canary_that_fails_always_is_seen_in_a_few_answers() -> None:
    """Nobody waits for a sample size."""
    trial = Trial(1, RolloutConfig(), 0.2)
    assert feed(trial, stream(1, failed=200, users=20_000)) is Verdict.HARMFUL
    assert trial.summary()["canary_answers"] <= 15


def test_one_user_counts_once() -> None:
    """However often one person says it, it is one person's opinion."""
    trial = Trial(1, RolloutConfig(), 0.2)
    for number in range(5000):
        trial.rated(Rated("one", True, 0.0, -1.0))
        trial.rated(Rated(f"user{number}", False, 0.0, 1.0))
        trial.answered(replace(ANSWER, unit="one", is_canary=True, has_failed=True, is_blocked=True))
    assert trial.verdict is not Verdict.HARMFUL
    assert trial.summary()["metrics"]["thumbs"]["canary_users"] == 1
    assert trial.summary()["metrics"]["errors"]["canary_users_met"] == 1


def test_the_same_stream_gives_the_same_evidence() -> None:
    """A restart counts the stored requests again and stands where it stood."""
    first, second = Trial(1, RolloutConfig(), 0.2), Trial(1, RolloutConfig(), 0.2)
    feed(first, stream(3))
    feed(second, stream(3))
    assert first.summary() == second.summary()


def test_enough_answers_without_anything_shown_expire() -> None:
    """And a canary that is kept is ended all the same once it does harm."""
    trial = Trial(1, RolloutConfig(canary_requests=20), 0.2)
    assert feed(trial, stream(1, users=20_000)) is Verdict.EXPIRED
    for one in stream(2, failed=200, users=20_000, requests=200):
        if isinstance(one, Answered):
            trial.answered(replace(one, unit=f"later-{one.unit}"))
    assert trial.verdict is Verdict.HARMFUL


def test_only_what_is_asked_for_promotes() -> None:
    """Without thumbs a canary that needs them never is promising; one that does not, is; and with nothing asked for
    it only expires.
    """
    silent = [one for one in stream(1, users=20_000) if isinstance(one, Answered)]
    for asked, expected in (
        (("thumbs", "safety"), Verdict.RUNNING),
        (("safety", "errors"), Verdict.PROMISING),
        ((), Verdict.RUNNING),
    ):
        trial = Trial(1, RolloutConfig(promote_on=asked, canary_requests=100_000), 0.2)
        assert feed(trial, iter(silent)) is expected


def test_nobody_to_compare_with_is_no_evidence() -> None:
    """At a share of one, and where both sides only meet after a change of share."""
    for share in (0.0, 1.0):
        trial = Trial(1, RolloutConfig(), share)
        for number in range(1000):
            trial.answered(replace(ANSWER, unit=f"user{number}", is_canary=True, is_blocked=True, has_failed=True))
        assert trial.verdict is Verdict.RUNNING


def test_a_slightly_slower_canary_is_not_slow() -> None:
    """An adapter costs some time; a quarter more is allowed."""
    assert Verdict.HARMFUL not in verdicts(5, slower=1.2, rollout={"promote_on": ()}, users=20_000)


def test_the_summary_says_what_thumbs_can_do() -> None:
    """JSON, and in plain words: too few thumbs can only veto."""
    trial = Trial(7, RolloutConfig(), 0.2)
    feed(trial, stream(1, requests=100))
    summary = json.loads(json.dumps(trial.summary()))
    assert summary["generation"] == 7
    assert summary["until"] - summary["since"] == 99.0
    thumbs = next(line for line in summary["words"] if line.startswith("thumbs"))
    assert "can only veto" in thumbs
    assert f"about {summary['metrics']['thumbs']['canary_users_needed']:,}" in thumbs


def test_the_summary_says_what_was_shown() -> None:
    """Harm, non-inferiority, and what nobody spoke about."""
    bad, good = Trial(1, RolloutConfig(), 0.2), Trial(1, RolloutConfig(canary_requests=100_000), 0.2)
    feed(bad, stream(1, failed=200, users=20_000))
    assert any(line.startswith("errors: harm is shown") for line in bad.summary()["words"])
    assert any(
        "thumbs" in line and "Promotion waits" in line for line in Trial(1, RolloutConfig(), 0.2).summary()["words"]
    )
    feed(good, stream(1, shift=0.2))
    assert any(line.startswith("thumbs: no worse than the margin") for line in good.summary()["words"])


def test_counting_is_cheap() -> None:
    """It runs at every request: far below what a request costs, also for users who are new."""
    events = [one for one in stream(1, users=20_000, requests=5000) if isinstance(one, Answered)]
    trial = Trial(1, RolloutConfig(), 0.2)
    started = time.process_time()
    for one in events:
        trial.answered(one)
    assert (time.process_time() - started) / len(events) < 100e-6
