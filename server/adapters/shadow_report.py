"""What a shadow's answers say about it, beside those that were shown to the same questions. Pure.

Differences are paired, and averaged for each user first: a user who asks a lot is still one user. The durations are not
paired: a shown answer's begins with its admission, and where it was streamed ends with its reader.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

from server.adapters.gate.statistics import Interval, mean_interval, wilson_interval
from server.store.shadows import Pair
from server.wire.adapters import IntervalReply, ShadowReply

MOST = 10_000
"""Newest answers that are looked at."""


def summarise(active: str, pairs: Sequence[Pair]) -> ShadowReply | None:
    """None without an answer. Intervals are of 95%."""
    if not pairs:
        return None
    answered = [one for one in pairs if not one.has_failed]
    durations = [one.active_duration_s for one in pairs if one.active_duration_s is not None]
    return ShadowReply(
        active=active,
        answers=len(pairs),
        users=len({one.unit for one in pairs}),
        reward_difference=_by_user(answered, _reward_difference),
        blocked_share=_mean([float(one.is_blocked) for one in answered]),
        active_blocked_share=_mean([float(one.active_is_blocked) for one in answered]),
        blocked_difference=_by_user(answered, lambda one: float(one.is_blocked) - float(one.active_is_blocked)),
        failed_share=_reply(wilson_interval(sum(one.has_failed for one in pairs), len(pairs))),
        mean_duration_s=_mean([one.duration_s for one in answered]),
        active_mean_duration_s=_mean(durations),
    )


def _reward_difference(pair: Pair) -> float | None:
    if pair.reward is None or pair.active_reward is None:
        return None
    return pair.reward - pair.active_reward


def _by_user(pairs: Sequence[Pair], measure: Callable[[Pair], float | None]) -> IntervalReply | None:
    users: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        if (value := measure(pair)) is not None:
            users[pair.unit].append(value)
    return _reply(mean_interval([math.fsum(values) / len(values) for values in users.values()]))


def _reply(interval: Interval | None) -> IntervalReply | None:
    if interval is None:
        return None
    low, high = (bound if math.isfinite(bound) else None for bound in (interval.low, interval.high))
    return IntervalReply(value=interval.value, low=low, high=high, count=interval.count)


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
