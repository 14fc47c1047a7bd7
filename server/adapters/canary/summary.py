"""A metric for the report: its figures as JSON, and what they mean in plain words. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp
from typing import Any

from server.adapters.canary.metrics import Level, Rate

IN_ITS_UNIT: dict[str, Callable[[float], float]] = {
    "thumbs": lambda worse: 1.0 - worse,
    "rewards": lambda worse: -worse,
    "latency": exp,
}
"""From the mean contribution: the mean thumb (0 down, 1 up), the mean reward, the geometric mean of seconds."""


@dataclass(frozen=True, slots=True)
class Bars:
    """How much evidence is asked for."""

    harm: float
    non_inferiority: float


def figures(name: str, metric: Level | Rate, bars: Bars) -> dict[str, Any]:
    """`worse_by` and `margin`: thumbs and rates as differences, rewards and latency as chances beyond one half."""
    matching = metric.matching
    in_its_unit = IN_ITS_UNIT.get(name, float)
    means = {
        side: in_its_unit(matching.sums[side] / matching.counts[side]) if matching.counts[side] else None
        for side in (True, False)
    }
    found = {
        "canary_users": matching.counts[True],
        "active_users": matching.counts[False],
        "canary": means[True],
        "active": means[False],
        "worse_by": matching.worse,
        "margin": metric.margin,
        "evidence_of_harm": metric.harm.highest,
        "evidence_of_non_inferiority": metric.non_inferiority.highest,
        "canary_users_needed": metric.users_needed(bars.non_inferiority),
    }
    if isinstance(metric, Rate):
        found |= {"canary_users_met": metric.events[True], "active_users_met": metric.events[False]}
    return found


def words(name: str, metric: Level | Rate, bars: Bars, is_asked: bool) -> str:
    """One sentence or two: what is shown, or how much is missing."""
    count = metric.matching.counts[True]
    users = f"{count:,} canary user{'' if count == 1 else 's'}"
    if metric.harm.highest >= bars.harm:
        return f"{name}: harm is shown, with {users}."
    if metric.non_inferiority.highest >= bars.non_inferiority:
        return f"{name}: no worse than the margin of {metric.margin:g}, with {users}."
    needed = metric.users_needed(bars.non_inferiority)
    if not count:
        return f"{name}: nothing came in, so nothing is shown." + (" Promotion waits for it." if is_asked else "")
    if count < needed:
        return (
            f"{name}: {users} so far. To show that it is no worse than the margin of {metric.margin:g}, an equal canary"
            f" needs about {needed:,}; until then this can only veto."
        )
    return f"{name}: neither harm nor non-inferiority is shown, with {users}."
