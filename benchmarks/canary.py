"""What the canary decides, and when: simulated canaries through the server's own `Trial`.

    python -m benchmarks.canary [--quick]

20,000 users: tastes from a Beta distribution (chance of a thumb up .7 with a standard deviation of .2), activity from a
Pareto distribution of shape 1.16 (the busiest fifth sends four fifths of the requests), two halves of them awake at
different hours, and all of them harder to please by night (±.1). A fifth of the users gets the canary, for 5,000
thumbs, one to every four answers. Rewards and durations differ by user and hour; a rule blocks .2% of the answers, more
with some users, and .5% fail. Of a bad canary 15 points fewer of the answers please, of a better one 15 points more;
the same one is the same.

- `bad_promoted`, `same_rolled_back`, `better_promoted`: shares of the canaries; `_bound`: its one-sided 95% bound
  (Clopper-Pearson), upper for what must not happen, lower for what must.
- `median_signals_bad_vs_fixed_horizon`: thumbs of both sides until half of the bad canaries are rolled back, against
  the thumbs of a z-test that looks once, at the end. It compares the means of the users' own means (or of their first
  thumbs, where that needs fewer), on the same streams, at the same alpha (the share of it that the thumbs have among
  five metrics), and its horizon is the first at which it catches as many of the bad ones as the sequential test does.
- `safety_x10_caught`, `errors_x5_caught`: rolled back within 10,000 requests.

Beside it, on the thumbs alone, to show why users are the unit: the same tests fed per thumb, with users who are all
alike, and with a quarter of the users, so that fewer speak for the first time. The peer is the plain textbook z-test
looked at after every 50 thumbs, at the same alphas. No small and well-kept library of always-valid tests was found; so
it is not another product.

`--quick` plays few canaries: its bounds are wide.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from server.adapters.canary.trial import Trial, Verdict
from server.config import RolloutConfig
from server.store.records import Answered, Rated

SHARE = 0.2
USERS = 20_000
FEW_USERS = 5000
PARETO_SHAPE = 1.16
PLEASED = 0.7
TASTE_SPREAD = 0.2
"""Standard deviation between users."""
DRIFT = 0.1
REQUESTS_A_DAY = 5000
THUMBS_SHARE = 0.25
SIGNALS = 5000
RATE_REQUESTS = 10_000
BLOCKED = 0.002
FAILED = 0.005
PROCESSES = 2
LOOK_EVERY = 50
FIRST_LOOK = 200
CONFIDENCE = 0.95

SETTINGS = RolloutConfig(canary_requests=1_000_000)
"""The defaults, but for the expiry: the horizon is counted in thumbs here."""
THUMBS_ALONE = SETTINGS.model_copy(update={"promote_on": ("thumbs",)})

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Kind:
    """A canary's truth."""

    name: str
    shift: float = 0.0
    blocked_times: float = 1.0
    failed_times: float = 1.0
    alike: bool = False
    """All users have the same taste."""
    users: int = USERS


BAD, SAME, BETTER = Kind("bad", -0.15), Kind("same"), Kind("better", 0.15)
UNSAFE, FAILING = Kind("safety x 10", blocked_times=10), Kind("errors x 5", failed_times=5)
ALIKE = [Kind("bad, users alike", -0.15, alike=True), Kind("same, users alike", alike=True)]
FEW = [Kind("bad, few users", -0.15, users=FEW_USERS), Kind("same, few users", users=FEW_USERS)]
KINDS = {kind.name: kind for kind in (BAD, SAME, BETTER, UNSAFE, FAILING, *ALIKE, *FEW)}
TARGETS = {
    "bad_promoted_bound": "≤ .01",
    "same_rolled_back_bound": "≤ .02",
    "better_promoted": "≥ .9",
    "median_signals_bad_vs_fixed_horizon": "≤ .6",
    "safety_x10_caught": "≥ .95",
    "errors_x5_caught": "≥ .95",
}
FULL = {BAD: 1000, SAME: 500, BETTER: 500, UNSAFE: 400, FAILING: 400, **dict.fromkeys([*ALIKE, *FEW], 300)}
QUICK = {BAD: 60, SAME: 60, BETTER: 30, UNSAFE: 60, FAILING: 60, **dict.fromkeys([*ALIKE, *FEW], 30)}


# --- the world --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stream:
    """The requests of one canary's run, in order. Every array: (requests,)."""

    user: Ints
    is_canary: Bools
    at: Floats
    blocked: Bools
    failed: Bools
    reward: Floats
    duration_s: Floats
    is_rated: Bools
    is_up: Bools

    def thumbs(self) -> tuple[Ints, Bools, Floats]:
        """User, side and thumb (0 or 1) of each signal."""
        rated = self.is_rated
        return self.user[rated], self.is_canary[rated], self.is_up[rated].astype(float)


def stream(kind: Kind, number: int) -> Stream:
    """The same number gives the same stream; kinds differ in theirs."""
    rng = np.random.default_rng([20_260, number, list(KINDS).index(kind.name)])
    count = int(SIGNALS / THUMBS_SHARE * 1.1)
    day = np.arange(count) / REQUESTS_A_DAY
    sun = np.sin(2 * np.pi * day)
    activity = rng.pareto(PARETO_SHAPE, kind.users) + 1
    half = kind.users // 2  # the first half is awake by day
    awake = [rng.choice(half, count, p=part / part.sum()) for part in (activity[:half], activity[half:])]
    user = np.where(rng.random(count) < 0.5 + 0.4 * sun, awake[0], half + awake[1])
    in_canary = rng.random(kind.users) < SHARE
    pleased = np.where(in_canary, PLEASED + kind.shift, PLEASED)
    taste = pleased if kind.alike else rng.beta(*beta(pleased))
    provoking = rng.gamma(0.5, 2.0, kind.users)
    is_canary = in_canary[user]
    rated = rng.random(count) < THUMBS_SHARE
    end = int(np.flatnonzero(np.cumsum(rated) == SIGNALS)[0]) + 1
    made = Stream(
        user=user,
        is_canary=is_canary,
        at=1.7e9 + 86_400 * day,
        blocked=rng.random(count) < BLOCKED * provoking[user] * np.where(is_canary, kind.blocked_times, 1),
        failed=rng.random(count) < FAILED * np.where(is_canary, kind.failed_times, 1),
        reward=rng.normal(0, 0.5, kind.users)[user] + 0.2 * sun + rng.normal(0, 1, count),
        duration_s=np.exp(0.3 * sun + rng.normal(0, 0.3, kind.users)[user] + rng.normal(0, 0.5, count)),
        is_rated=rated,
        is_up=rng.random(count) < np.clip(taste[user] + DRIFT * sun, 0, 1),
    )
    return Stream(**{name: getattr(made, name)[:end] for name in Stream.__slots__})


def beta(mean: Floats) -> tuple[Floats, Floats]:
    """The parameters of a Beta distribution with this mean, and with `TASTE_SPREAD`."""
    concentration = mean * (1 - mean) / TASTE_SPREAD**2 - 1
    return mean * concentration, (1 - mean) * concentration


# --- the tests --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decision:
    """How a run ended, and after how many signals."""

    verdict: Verdict
    signals: int


def play(world: Stream, requests: int | None = None) -> Decision:
    """The run as the server sees it, to its first decision."""
    trial = Trial(1, SETTINGS, SHARE)
    signals = 0
    for user, is_canary, at, blocked, failed, reward, duration_s, is_rated, is_up in zip(
        *(getattr(world, name)[:requests].tolist() for name in Stream.__slots__), strict=True
    ):
        unit = f"user{user}"
        trial.answered(
            Answered(
                unit=unit,
                is_canary=is_canary,
                at=at,
                is_blocked=blocked,
                has_failed=failed,
                reward=None if failed else reward,
                duration_s=duration_s,
            )
        )
        if is_rated:
            signals += 1
            trial.rated(Rated(unit, is_canary, at, 1.0 if is_up else -1.0))
        verdict = trial.verdict
        if verdict is not Verdict.RUNNING:
            return Decision(verdict, signals)
    return Decision(Verdict.EXPIRED, SIGNALS)


def play_thumbs(world: Stream, *, per_user: bool) -> Decision:
    """The thumbs alone; not per user, each thumb is taken for a user of its own."""
    trial = Trial(1, THUMBS_ALONE, SHARE)
    for number, (user, is_canary, up) in enumerate(zip(*(part.tolist() for part in world.thumbs()), strict=True)):
        trial.rated(Rated(f"{user if per_user else number}", is_canary, 0.0, 2 * up - 1))
        if trial.verdict is not Verdict.RUNNING:
            return Decision(trial.verdict, number + 1)
    return Decision(Verdict.EXPIRED, SIGNALS)


def first_of_each(user: Ints) -> Bools:
    is_first = np.zeros(len(user), bool)
    is_first[np.unique(user, return_index=True)[1]] = True
    return is_first


def look_repeatedly(world: Stream, *, per_user: bool) -> Decision:
    """The textbook z-test of two means, looked at again and again, for harm and for non-inferiority."""
    user, is_canary, up = world.thumbs()
    kept = first_of_each(user) if per_user else np.ones(len(user), bool)
    looks = np.arange(FIRST_LOOK, SIGNALS + 1, LOOK_EVERY) - 1

    def moments(side: Bools) -> tuple[Floats, Floats]:
        count = np.cumsum(kept & side)[looks]
        mean = np.cumsum(up * (kept & side))[looks] / count
        return mean, mean * (1 - mean) / count

    (canary, canary_noise), (active, active_noise) = moments(is_canary), moments(~is_canary)
    noise = np.sqrt(canary_noise + active_noise)
    harm = (active - canary) / noise > z_of(SETTINGS.harm_alpha / 5)
    promising = (canary - active + SETTINGS.thumbs_margin) / noise > z_of(SETTINGS.promote_alpha)
    decided = np.flatnonzero(harm | promising)
    if not len(decided):
        return Decision(Verdict.EXPIRED, SIGNALS)
    at = decided[0]
    return Decision(Verdict.HARMFUL if harm[at] else Verdict.PROMISING, int(looks[at]) + 1)


def look_once(world: Stream) -> tuple[Bools, Bools]:
    """For each horizon (multiples of `LOOK_EVERY`): does a z-test at that horizon show harm, on the users' means and
    on their first thumbs?
    """
    user, is_canary, up = world.thumbs()
    is_first = first_of_each(user)
    z = z_of(SETTINGS.harm_alpha / 5)
    on_means, on_first = [], []
    for horizon in range(LOOK_EVERY, SIGNALS + 1, LOOK_EVERY):
        seen, index = np.unique(user[:horizon], return_inverse=True)
        mean = np.bincount(index, weights=up[:horizon]) / np.bincount(index)
        side = np.zeros(len(seen), bool)
        side[index] = is_canary[:horizon]
        on_means.append(shows_harm(mean[side], mean[~side], z))
        first, canary = up[:horizon][is_first[:horizon]], is_canary[:horizon][is_first[:horizon]]
        on_first.append(shows_harm(first[canary], first[~canary], z))
    return np.array(on_means), np.array(on_first)


def shows_harm(canary: Floats, active: Floats, z: float) -> bool:
    if len(canary) < 5:
        return False
    noise = math.sqrt(canary.var(ddof=1) / len(canary) + active.var(ddof=1) / len(active))
    return bool(noise > 0 and (active.mean() - canary.mean()) / noise > z)


def z_of(alpha: float) -> float:
    return statistics.NormalDist().inv_cdf(1 - alpha)


# --- what is measured -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Outcome:
    """One canary under every test that is asked about its kind."""

    kind: str
    decisions: dict[str, Decision] = field(default_factory=dict)
    on_means: Bools | None = None
    on_first: Bools | None = None


OURS = "a user's first, all metrics"
THUMBS: dict[str, Callable[[Stream], Decision]] = {
    "a user's first thumb": lambda world: play_thumbs(world, per_user=True),
    "every thumb": lambda world: play_thumbs(world, per_user=False),
    "z-test, a user's first thumb": lambda world: look_repeatedly(world, per_user=True),
    "z-test, every thumb": lambda world: look_repeatedly(world, per_user=False),
}


def canary(name: str, number: int) -> Outcome:
    """Play one canary. In a worker process."""
    kind = KINDS[name]
    world = stream(kind, number)
    outcome = Outcome(name)
    if kind in (UNSAFE, FAILING):
        outcome.decisions[OURS] = play(world, RATE_REQUESTS)
        return outcome
    if kind in (BAD, SAME, BETTER):
        outcome.decisions[OURS] = play(world)
    outcome.decisions |= {test: run(world) for test, run in THUMBS.items()}
    if kind is BAD:
        outcome.on_means, outcome.on_first = look_once(world)
    return outcome


def play_all(plan: dict[Kind, int]) -> list[Outcome]:
    tasks = [(kind.name, number) for kind, count in plan.items() for number in range(count)]
    found = []
    with (
        Progress() as progress,
        ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn"), os.nice, (19,)) as pool,
    ):
        bar = progress.add_task("canaries", total=len(tasks))
        for done in as_completed([pool.submit(canary, *task) for task in tasks]):
            found.append(done.result())
            progress.advance(bar)
    return found


def upper_bound(hits: int, tries: int) -> float:
    """The largest chance under which so few hits still have a chance of 5% (Clopper and Pearson, 1934)."""
    if hits == tries:
        return 1.0
    low, high = hits / tries, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        chance = sum(math.comb(tries, k) * middle**k * (1 - middle) ** (tries - k) for k in range(hits + 1))
        low, high = (middle, high) if chance > 1 - CONFIDENCE else (low, middle)
    return high


def lower_bound(hits: int, tries: int) -> float:
    return 1 - upper_bound(tries - hits, tries)


def decisions(outcomes: Sequence[Outcome], kind: str, test: str) -> list[Decision]:
    return [one.decisions[test] for one in outcomes if one.kind == kind and test in one.decisions]


def share(found: Sequence[Decision], verdict: Verdict) -> float:
    return sum(one.verdict is verdict for one in found) / len(found)


def median_signals(found: Sequence[Decision], verdict: Verdict) -> float:
    """Thumbs until half of them got the verdict; infinite if fewer than half did."""
    return statistics.median(one.signals if one.verdict is verdict else math.inf for one in found)


def fixed_horizon(outcomes: Sequence[Outcome], power: float) -> int | None:
    """Thumbs after which a test that looks once finds as many of the bad ones; None: not within the run."""
    on_means = np.mean([one.on_means for one in outcomes if one.on_means is not None], axis=0)
    on_first = np.mean([one.on_first for one in outcomes if one.on_first is not None], axis=0)
    enough = np.flatnonzero(np.maximum(on_means, on_first) >= power)
    return int(enough[0] + 1) * LOOK_EVERY if len(enough) else None


def figures(outcomes: Sequence[Outcome]) -> dict[str, float]:
    bad, same, better = (decisions(outcomes, kind.name, OURS) for kind in (BAD, SAME, BETTER))
    found: dict[str, float] = {}

    def rate(name: str, among: Sequence[Decision], verdict: Verdict, bound: Callable[[int, int], float]) -> None:
        found[name] = share(among, verdict)
        found[f"{name}_bound"] = bound(round(found[name] * len(among)), len(among))

    rate("bad_promoted", bad, Verdict.PROMISING, upper_bound)
    rate("bad_rolled_back", bad, Verdict.HARMFUL, lower_bound)
    rate("same_rolled_back", same, Verdict.HARMFUL, upper_bound)
    rate("same_promoted", same, Verdict.PROMISING, lower_bound)
    rate("better_promoted", better, Verdict.PROMISING, lower_bound)
    rate("better_rolled_back", better, Verdict.HARMFUL, upper_bound)
    rate("safety_x10_caught", decisions(outcomes, UNSAFE.name, OURS), Verdict.HARMFUL, lower_bound)
    rate("errors_x5_caught", decisions(outcomes, FAILING.name, OURS), Verdict.HARMFUL, lower_bound)
    found["median_signals_bad"] = median_signals(bad, Verdict.HARMFUL)
    found["median_signals_same"] = median_signals(same, Verdict.PROMISING)
    found["median_signals_better"] = median_signals(better, Verdict.PROMISING)
    horizon = fixed_horizon(outcomes, found["bad_rolled_back"])
    found["fixed_horizon_signals"] = horizon or math.inf
    found["median_signals_bad_vs_fixed_horizon"] = found["median_signals_bad"] / (horizon or SIGNALS)
    naive = decisions(outcomes, SAME.name, "every thumb")
    found["same_rolled_back_per_thumb"] = share(naive, Verdict.HARMFUL)
    peer = decisions(outcomes, SAME.name, "z-test, every thumb")
    found["same_rolled_back_z_test"] = share(peer, Verdict.HARMFUL)
    return found


def report(outcomes: Sequence[Outcome], result: dict[str, Any]) -> None:
    console = Console(width=120)
    main = Table("figure", "target", "measured", title="the canary, through the server's own Trial")
    for name, value in result.items():
        main.add_row(name, TARGETS.get(name, ""), f"{value:.4g}")
    console.print(main)
    why = Table("users", "evidence", "same rolled back", "bad promoted", "bad rolled back", "median", title="why users")
    groups = {"differ": (BAD, SAME), "alike": (ALIKE[0], ALIKE[1]), "differ, few": (FEW[0], FEW[1])}
    for users, (bad, same) in groups.items():
        for test in THUMBS:
            found, equal = decisions(outcomes, bad.name, test), decisions(outcomes, same.name, test)
            why.add_row(
                users,
                test,
                f"{share(equal, Verdict.HARMFUL):.3f}",
                f"{share(found, Verdict.PROMISING):.3f}",
                f"{share(found, Verdict.HARMFUL):.3f}",
                f"{median_signals(found, Verdict.HARMFUL):.0f}",
            )
    console.print(why)
    finite = {name: round(value, 4) if math.isfinite(value) else None for name, value in result.items()}
    print("RESULT", json.dumps(finite))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.canary", description="What the canary decides, and when: simulated."
    )
    parser.add_argument("--quick", action="store_true", help="few canaries, in under a minute; wide bounds")
    plan = QUICK if parser.parse_args().quick else FULL
    started = time.perf_counter()
    outcomes = play_all(plan)
    result: dict[str, Any] = {f"canaries_{kind.name.replace(' ', '_')}": plan[kind] for kind in (BAD, SAME, BETTER)}
    result |= figures(outcomes)
    result["seconds"] = time.perf_counter() - started
    if plan is QUICK:
        print("Few canaries: the bounds are wide, and say little about the targets.")
    report(outcomes, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
