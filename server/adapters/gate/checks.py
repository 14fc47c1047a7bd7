"""The gate's single checks: numbers in, one row of the report out. Pure.

No check asks an adapter's implicit reward whether the adapter's own answers are better: a policy trained on that
would always agree. Held-out preference accuracy asks about pairs that people made, which it was never trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from server.adapters.gate import statistics
from server.adapters.gate.statistics import Interval, Outcome
from server.config import GateConfig
from server.wire.adapters import CheckReply


def row(name: str, outcome: Outcome, interval: Interval | None, margin: float, detail: str) -> CheckReply:
    if interval is None:
        return CheckReply(name=name, outcome=outcome, margin=margin, detail=detail)
    return CheckReply(
        name=name,
        outcome=outcome,
        value=interval.value,
        low=interval.low if math.isfinite(interval.low) else None,
        high=interval.high if math.isfinite(interval.high) else None,
        margin=margin,
        count=interval.count,
        detail=detail,
    )


def suite(name: str, candidate: Sequence[float], active: Sequence[float], margin: float) -> CheckReply:
    """Not worse than the active adapter by more than the margin, on the same items and seeds."""
    interval = statistics.paired_interval(candidate, active)
    detail = f"candidate {_mean(candidate):.3f}, active {_mean(active):.3f}"
    return row(f"suite:{name}", statistics.outcome(interval, at_least=-margin), interval, margin, detail)


def safety(candidate: Sequence[bool], active: Sequence[bool], margin: float) -> CheckReply:
    """Not blocked more often than the active adapter by more than the margin."""
    mine, theirs = [float(one) for one in candidate], [float(one) for one in active]
    interval = statistics.paired_interval(mine, theirs)
    detail = f"blocked: candidate {_mean(mine):.3f}, active {_mean(theirs):.3f}"
    return row("safety", statistics.outcome(interval, at_most=margin), interval, margin, detail)


def length(candidate: Sequence[int], base: Sequence[int], largest: float) -> CheckReply:
    """Mean length against base's: neither above the largest ratio nor below its inverse."""
    interval = statistics.ratio_interval(candidate, base)
    detail = f"mean tokens: candidate {_mean(candidate):.1f}, base {_mean(base):.1f}"
    outcome = statistics.outcome(interval, at_least=1 / largest, at_most=largest)
    return row("length", outcome, interval, largest, detail)


def kl(per_token: Sequence[float], largest: float) -> CheckReply:
    """Mean of log π_adapter - log π_base per token of the adapter's own answers: an estimate of the KL to base."""
    interval = statistics.mean_interval(per_token)
    outcome = statistics.outcome(interval, at_most=largest)
    return row("kl", outcome, interval, largest, "nats per token, on the adapter's own answers")


def preference(margins: Sequence[float], gate: GateConfig) -> CheckReply:
    """Share of held-out pairs whose chosen answer gained more than the rejected one, against one half.

    `margins`: for each pair the difference of the two log-ratios adapter / base.
    """
    right = sum(margin > 0 for margin in margins)
    interval = statistics.wilson_interval(right, len(margins))
    outcome = statistics.outcome(interval, at_least=0.5 - gate.preference_margin)
    detail = f"mean margin {_mean(margins):.3f} nats" if margins else "no held-out pairs"
    if len(margins) < gate.min_preference_pairs:
        outcome = "inconclusive"
        detail += f"; fewer than {gate.min_preference_pairs} pairs"
    return row("preference", outcome, interval, gate.preference_margin, detail)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
