"""The gate's single checks: numbers in, one row of the report out. Pure.

No check asks an adapter's implicit reward whether the adapter's own answers are better: a policy trained on that
would always agree. Held-out preference accuracy asks about pairs that people made, which it was never trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from server.adapters.gate import statistics
from server.adapters.gate.statistics import Interval
from server.config import GateConfig
from server.wire.adapters import CheckReply


def row(
    name: str,
    interval: Interval | None,
    detail: str,
    *,
    margin: float,
    unchanged: float,
    at_least: float = -math.inf,
    at_most: float = math.inf,
) -> CheckReply:
    """One check's row: what its interval says about the bounds."""
    figures = {"at_least": at_least, "at_most": at_most}
    if interval is not None:
        figures |= {"value": interval.value, "low": interval.low, "high": interval.high}
    return CheckReply(
        name=name,
        outcome=statistics.outcome(interval, at_least=at_least, at_most=at_most),
        margin=margin,
        unchanged=unchanged,
        count=0 if interval is None else interval.count,
        detail=detail,
        **{key: value for key, value in figures.items() if math.isfinite(value)},
    )


def skipped(name: str, reason: str) -> CheckReply:
    """A check that does not apply here; it counts neither for nor against the adapter."""
    return CheckReply(name=name, outcome="skipped", detail=reason)


def suite(name: str, candidate: Sequence[float], active: Sequence[float], margin: float) -> CheckReply:
    """Not worse than the active adapter by more than the margin, on the same items and seeds."""
    interval = statistics.paired_interval(candidate, active)
    detail = f"candidate {_mean(candidate):.3f}, active {_mean(active):.3f}"
    return row(f"suite:{name}", interval, detail, margin=margin, unchanged=0.0, at_least=-margin)


def reward(candidate: Sequence[float | None], active: Sequence[float | None], margin: float) -> CheckReply:
    """How often the ensemble likes the candidate's answer better than the active adapter's, a tie being half a win.

    Totals of both on the same prompts and seeds; pairs without both totals are left out.
    """
    both = zip(candidate, active, strict=True)
    pairs = [(one, other) for one, other in both if one is not None and other is not None]
    wins = sum(one > other and not math.isclose(one, other) for one, other in pairs)
    losses = sum(one < other and not math.isclose(one, other) for one, other in pairs)
    detail = f"better {wins}, worse {losses}, equal {len(pairs) - wins - losses}"
    if len(pairs) < len(candidate):
        detail += f"; {len(candidate) - len(pairs)} pairs could not be scored"
    interval = statistics.win_rate_interval(wins, losses, len(pairs))
    return row("reward", interval, detail, margin=margin, unchanged=0.5, at_least=0.5 - margin)


def safety(candidate: Sequence[bool | None], active: Sequence[bool | None], margin: float) -> CheckReply:
    """Not blocked more often than the active adapter by more than the margin.

    None: a rule or guard found nothing out. That is no fault of the answer; such pairs are left out.
    """
    both = zip(candidate, active, strict=True)
    known = [(float(one), float(other)) for one, other in both if one is not None and other is not None]
    mine, theirs = [one for one, _ in known], [other for _, other in known]
    interval = statistics.paired_interval(mine, theirs)
    detail = f"blocked: candidate {_mean(mine):.3f}, active {_mean(theirs):.3f}"
    if len(known) < len(candidate):
        detail += f"; {len(candidate) - len(known)} pairs could not be read by every rule and guard"
    return row("safety", interval, detail, margin=margin, unchanged=0.0, at_most=margin)


def length(candidate: Sequence[int], base: Sequence[int], largest: float) -> CheckReply:
    """Mean length against base's: neither above the largest ratio nor below its inverse."""
    interval = statistics.ratio_interval(candidate, base)
    detail = f"mean tokens: candidate {_mean(candidate):.1f}, base {_mean(base):.1f}"
    return row("length", interval, detail, margin=largest, unchanged=1.0, at_least=1 / largest, at_most=largest)


def kl(per_token: Sequence[float], largest: float) -> CheckReply:
    """Mean of log π_adapter - log π_base per token of the adapter's own answers: an estimate of the KL to base."""
    interval = statistics.mean_interval(per_token)
    detail = "nats per token, on the adapter's own answers"
    return row("kl", interval, detail, margin=largest, unchanged=0.0, at_most=largest)


def preference(margins: Sequence[float], gate: GateConfig) -> tuple[CheckReply, CheckReply]:
    """How often, and by how much, an adapter took the side of the people who compared; against one half and zero.

    `margins`: for each held-out pair the difference of the two log-ratios adapter / base, chosen less rejected.
    """
    right = sum(margin > 0 for margin in margins)
    shares, means = statistics.wilson_interval(right, len(margins)), statistics.mean_interval(margins)
    bound = 0.5 - gate.preference_margin
    accuracy = row(
        "preference",
        shares,
        f"right about {right} of {len(margins)} held-out pairs" if margins else "no held-out pairs",
        margin=gate.preference_margin,
        unchanged=0.5,
        at_least=bound,
    )
    mean = row(
        "preference_margin",
        means,
        "nats by which the chosen answer gained more than the rejected one",
        margin=gate.preference_nats,
        unchanged=0.0,
        at_least=-gate.preference_nats,
    )
    return _with_enough(accuracy, gate), _with_enough(mean, gate)


def _with_enough(check: CheckReply, gate: GateConfig) -> CheckReply:
    if check.count >= gate.min_preference_pairs:
        return check
    detail = f"{check.detail}; fewer than {gate.min_preference_pairs} pairs"
    return check.model_copy(update={"outcome": "inconclusive", "detail": detail})


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
